// What a model remembers from one run to the next: a buffer per declared state.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "base/arena.h"
#include "base/status.h"
#include "runtime/program.h"

namespace mrt {

class State {
 public:
  // Retains the program. Holds the declared initial values.
  static Status create(Program* program, std::unique_ptr<State>* out);
  ~State() { program_->release(); }
  Status clone(std::unique_ptr<State>* out) const;
  void reset();

  Program* program() const { return program_; }
  uint8_t* data(size_t index) const { return buffers_[index].data(); }
  size_t bytes(size_t index) const { return program_->state_bytes(index); }
  const int64_t* shape(size_t index) const { return shapes_[index].data(); }
  int32_t ndim(size_t index) const { return static_cast<int32_t>(shapes_[index].size()); }

  // For the one run that uses it at a time.
  bool acquire() { return !busy_.exchange(true, std::memory_order_acquire); }
  void give_back() { busy_.store(false, std::memory_order_release); }

 private:
  explicit State(Program* program) : program_(program) { program->retain(); }
  Program* program_;
  std::vector<Arena> buffers_;
  std::vector<std::vector<int64_t>> shapes_;
  std::atomic<bool> busy_{false};
};

}  // namespace mrt
