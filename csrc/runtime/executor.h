// Runs the steps of a layout: executor.cc their order and what works on tensors, executor_symbols.cc those that bind
// and tell symbols, executor_control.cc those that run blocks. What it keeps between runs (memory of values whose size
// only the data decides, profile records) it keeps to be used again, so that a run like the one before allocates
// nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/status.h"
#include "base/watch.h"
#include "runtime/layout.h"
#include "runtime/program.h"
#include "runtime/values.h"

namespace mrt {

class Executor {
 public:
  Executor(const Program& program, int32_t threads, bool profile);

  // Pointers of the layout are filled in. `scratch` has layout->scratch_bytes. What waits for commit() is not done yet.
  Status run(Layout* layout, uint8_t* scratch, const RunControl& control);

  // Whether commit() after this run can be done in full; then does it: nothing in it can fail.
  Status check_commit();
  void commit();

  // Of the last run; after commit() only those that are given to the caller.
  RunValues& values() { return values_; }
  const RunValues& values() const { return values_; }
  const std::vector<mrt_step_record>& records() const { return records_; }
  size_t memory() const { return values_.bytes() + staging_.bytes(); }

 private:
  // Who runs steps: all threads on each, or one lane of a stretch on its own.
  struct Worker {
    ThreadPool* pool;
    int32_t threads;
    uint8_t* scratch;
    std::vector<mrt_step_record>* records;
    int32_t lane, lanes;
  };

  Status run_block(uint32_t block);
  Status run_steps(StepRun* begin, StepRun* end, const Worker& worker);
  Status run_repeat(RepeatRun* repeat, const Worker& all);
  Status run_step(StepRun* s, const Worker& worker);
  void note(const StepInfo& step);
  Status run_kernel(StepRun* s, const Worker& worker);
  Status run_code(StepRun* s);
  Status run_copy(const StepRun& s);
  Status check_copy(const StepRun& s, const Tensor** from, Tensor** to);
  Status run_bind(const StepRun& s);
  Status run_shape(const StepRun& s);
  Status run_branch(const StepRun& s);
  Status run_loop(const StepRun& s);

  Status loop_body(const StepRun& s, int64_t iterations, bool* go_on);
  Status bind_extents(const plan::Step& step, bool start);
  Status carry(const StepRun& s);
  Status append_scans(const StepRun& s, int64_t iteration);
  Status finish_loop(const StepRun& s, int64_t iterations);

  Status check_stop() { return watch_.stop() ? watch_.status() : Status(); }
  void record(const StepRun& s, int64_t start, const Worker& worker) const;

  const Program& program_;
  const plan::Plan& plan_;
  const int32_t threads_;
  const bool profile_;
  ThreadPool* const pool_;
  Layout* l_ = nullptr;
  uint8_t* scratch_ = nullptr;
  Watch watch_;
  RunValues values_;
  Arena staging_;  // what a loop carries, between two iterations
  std::vector<mrt_step_record> records_;
};

}  // namespace mrt
