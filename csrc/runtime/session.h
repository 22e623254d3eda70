// One caller's way to run a program: binds shapes, keeps layouts and memory, moves inputs and outputs.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/arena.h"
#include "base/status.h"
#include "runtime/executor.h"
#include "runtime/issued.h"
#include "runtime/layout.h"
#include "runtime/program.h"
#include "runtime/span.h"
#include "runtime/state.h"

namespace mrt {

struct RunRequest {
  const mrt_tensor* inputs;
  size_t input_count;
  mrt_tensor* outputs;
  size_t output_count;
  uint32_t entry;
  State* state;
  std::optional<uint64_t> seed;  // none: one is drawn where the program needs it
  RunControl control;
  bool exact_outputs;
};

class Session {
 public:
  // Retains the program. threads is at least 1.
  Session(Program* program, int32_t threads, bool profile, int32_t layout_cache);

  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void release() {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  // One run at a time: whoever acquired the session may run it, then gives it back.
  bool acquire() { return !busy_.exchange(true, std::memory_order_acquire); }
  void give_back() { busy_.store(false, std::memory_order_release); }
  Status run(const RunRequest& request);

  Program* program() const { return program_; }
  bool profiles() const { return profile_; }
  const std::vector<mrt_step_record>& records() const { return executor_.records(); }
  // Of the last run that drew random numbers; none before there is one.
  std::optional<uint64_t> seed() const { return seed_; }
  // May be read while another thread runs.
  size_t memory() const { return memory_.load(std::memory_order_relaxed); }

 private:
  ~Session();

  Status run_placed(const RunRequest& request);
  Status check_file();
  Status check_input(const mrt_tensor& tensor, const ValueText& text) const;
  bool same_shapes(const RunRequest& request) const;
  Status select_layout(const RunRequest& request);
  Status bind(const RunRequest& request);
  Status bind_symbol(const ValueText& input, size_t dim, const InputDim& d, int64_t value);
  std::string sizes_text(uint32_t expr) const;  // of the symbols that the expression has
  Status check_dims(const RunRequest& request) const;
  Status find_layout(uint32_t entry);
  Status reserve_memory();
  void remember_shapes(const RunRequest& request);
  Status place_inputs(const RunRequest& request);
  Status place_outputs(const RunRequest& request);
  Status place_states(const RunRequest& request);
  Status place_seed(const RunRequest& request);
  void* staged_value(uint32_t state) const;
  Status check_room(const RunRequest& request, size_t output, const Tensor& value);
  Status check_apart(const RunRequest& request, size_t output) const;
  bool overlaps_input(const RunRequest& request, const Span& span) const;
  bool must_copy(const RunRequest& request, size_t input, const Span& span) const;
  bool overlaps_state(const RunRequest& request, const Span& span) const;
  Status complete_outputs(const RunRequest& request);
  void commit_states(const RunRequest& request);
  void deliver(const RunRequest& request);
  uint8_t* session_output(const OutputPlace& place);
  void forget_own_outputs(const RunRequest& request) const;

  std::atomic<int> references_{1};
  std::atomic<bool> busy_{false};
  std::atomic<size_t> memory_{0};
  Program* const program_;
  const int32_t threads_;
  const bool profile_;
  const size_t layout_limit_;
  Executor executor_;
  std::vector<std::unique_ptr<Layout>> layouts_;
  Layout* layout_ = nullptr;  // of the last run
  uint64_t clock_ = 0;
  std::vector<int64_t> last_extents_;  // extents of the last run's inputs, one after the other
  Bindings bindings_;                  // scratch of bind()
  Arena arena_, inputs_;
  KeptArena outputs_;
  int64_t file_checked_ns_ = 0;
  std::optional<uint64_t> seed_;
  std::vector<IssuedOutput*> issued_;   // by output: its shape as the caller sees it, and what was given away last
  std::vector<uint8_t> in_place_;       // by output: this run writes it straight into the caller's memory
  std::vector<Span> written_;           // by output: what of the caller's memory it takes; empty until that is known
  std::vector<size_t> loose_;           // by output: where its copy lies behind those that the layout knows; 0: none
  std::vector<const Tensor*> results_;  // by output: what the run computed
};

}  // namespace mrt
