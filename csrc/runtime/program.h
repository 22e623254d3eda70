// A loaded file: plan, weights, code and prepared kernels. Immutable after load, shared by sessions of any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "artifact/container.h"
#include "artifact/plan.h"
#include "base/arena.h"
#include "base/status.h"
#include "base/tensor.h"
#include "kernels/kernel.h"
#include "runtime/code_provider.h"
#include "runtime/commit.h"
#include "runtime/expr.h"
#include "runtime/lifetimes.h"

namespace mrt {

// What load decided about one step.
struct StepInfo {
  const Operator* op = nullptr;     // kernel steps
  const void* params = nullptr;     // prepared
  const char* kernel = nullptr;     // its name, for profiles
  CodeFunction function = nullptr;  // code steps
  size_t weights = 0;               // bytes of constants that it reads, where they are counted
  // Values whose size the data decides and which nothing reads after it.
  uint32_t last_uses = 0, last_use_count = 0;
};

// A constant that is stored N:M, as it was packed for the kernels that read it when the file was loaded.
struct Widened {
  uint32_t value;
  const std::string* packing;  // of the steps
  Arena memory;
  size_t bytes;
};

// One dimension of an input, and how it gives a symbol its value: extent = scale * symbol + offset.
struct InputDim {
  uint32_t expr;
  bool linear;
  uint32_t symbol;
  int64_t scale, offset;
};

// A value as the C API shows it.
struct ValueText {
  std::string name;
  DType dtype;
  std::vector<std::string> texts;  // of the dims; empty for fixed ones
  std::vector<mrt_dim> dims;       // points into texts
};

struct EntryInfo {
  const plan::Entry* entry;
  std::vector<std::vector<InputDim>> inputs;
  std::vector<ValueText> input_texts, output_texts;
  // Marks by symbol, expression, value: only a step decides it, so that it is not known before the run.
  std::vector<uint8_t> dynamic_symbols, dynamic_exprs, dynamic_values;
  bool uses_states = false;
  CommitPlan commit;
  Lifetimes lifetimes;
  std::vector<uint32_t> placed;  // values that steps use and that have no place before a binding: all but constants
  size_t tensors = 0, ffi = 0;   // arguments and outputs of all kernel steps, of all code steps
};

class Program {
 public:
  ~Program();
  static Status load(FileBytes bytes, const std::string& name, const mrt_load_options& options,
                     std::unique_ptr<Program>* out);

  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void release() {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  // Whether the file that the program looks into may be written to by others; then whether it was.
  bool mapped() const { return container_.bytes().mapped(); }
  Status check_unchanged() const { return container_.bytes().check_unchanged(container_.name().c_str()); }

  const std::string& manifest() const { return container_.manifest(); }
  const plan::Plan& plan() const { return plan_; }
  const ExprTable& exprs() const { return exprs_; }
  const std::vector<EntryInfo>& entries() const { return entries_; }
  const std::vector<ValueText>& states() const { return state_texts_; }
  const StepInfo& step_info(uint32_t block, size_t step) const { return steps_[block][step]; }
  const uint32_t* last_uses(const StepInfo& info) const { return last_uses_.data() + info.last_uses; }
  // The value that a view, or a view of a view, looks into in the end; a value itself if it is none.
  uint32_t root(uint32_t value) const { return roots_[value]; }
  // A step has read so many bytes of weights: what is more than the process may keep is handed back.
  void count_weights(size_t bytes) const;
  // By value: its tensor as far as it is the same at every binding; ndim is -1 where its shape is not.
  const std::vector<Tensor>& fixed() const { return fixed_; }
  size_t largest_constant() const { return largest_constant_; }  // in bytes
  const uint8_t* constant(const plan::Value& value) const { return container_.weights() + value.offset; }
  // The value that stands for the run's seed; -1: the program draws no random numbers.
  int64_t seed() const { return seed_; }
  // Bytes of a state's value, whose dims are fixed.
  size_t state_bytes(size_t state) const { return state_bytes_[state]; }

 private:
  Program() = default;
  // Before anything but the table is read. `whole` becomes true where the weights are to be hashed.
  Status check_policy(const mrt_load_options& options, bool* whole);
  Status load_code(const mrt_load_options& options);
  Status prepare_kernels();
  // What a step of this operator reads packed, where that is stored N:M.
  Status widen_weights(const plan::Step& step, const Operator& op, const Attrs& attrs);
  Status widen_weight(uint32_t value, const plan::Step& step, const Operator& op, const Attrs& attrs);
  const Widened* widened(uint32_t value) const;  // null: it is stored as it is
  // A constant's bytes, packed as steps take it.
  void give_constant(uint32_t value, Tensor* out) const;
  void find_roots();
  void find_fixed();
  void find_weights();
  void describe_entry(const plan::Entry& entry);
  void mark_dynamic(EntryInfo* info, uint32_t block);
  void note_last_uses();
  void count_arguments(EntryInfo* info, uint32_t block) const;
  ValueText describe_value(uint32_t value, const std::string& name) const;

  std::atomic<int> references_{1};
  Container container_;
  plan::Plan plan_;
  ExprTable exprs_;
  std::unique_ptr<CodeProvider> code_;
  std::set<std::string> kernel_names_;  // each once
  std::vector<std::vector<StepInfo>> steps_;
  std::vector<std::unique_ptr<uint64_t[]>> params_;
  std::vector<Widened> widened_;
  std::vector<uint32_t> last_uses_;  // behind StepInfo::last_uses
  std::vector<uint32_t> roots_;
  std::vector<Tensor> fixed_;
  std::vector<int64_t> fixed_extents_;  // behind their shapes and strides
  size_t largest_constant_ = 0;
  int64_t seed_ = -1;
  std::vector<EntryInfo> entries_;
  std::vector<ValueText> state_texts_;
  std::vector<size_t> state_bytes_;
  size_t resident_ = 0;  // bytes of weights that may stay in memory; 0: any
  mutable std::atomic<size_t> counted_{0};
};

}  // namespace mrt
