// The values of a run, as its steps see them. The layout knows most; of the others it says only where they are used:
// their shapes are known once a step has bound the symbols in them, and they get memory when they are written.
#pragma once

#include <cstdint>

#include "base/arena.h"
#include "base/status.h"
#include "runtime/dynamic_memory.h"
#include "runtime/layout.h"
#include "runtime/program.h"

namespace mrt {

class RunValues {
 public:
  RunValues(const Program& program, int32_t threads);

  // Of a new run: what steps bound in the last one has no value until they bind it again.
  void begin(Layout* layout);
  // Behind a run: only what is given to the caller is still there.
  void end() { memory_.reset(); }

  // A value's tensor, which was written before.
  Status read(uint32_t value, const Tensor** out);
  // Gives a value its shape and memory, before it is written.
  Status define(uint32_t value, Tensor** out);
  // Copies one value to another of the same shape, for a step.
  Status copy(const plan::Step& step, uint32_t from, uint32_t to);
  // Adds a slice behind the `Tensor::bytes` bytes of a value whose shape is not known before its last slice.
  Status append(uint32_t value, const Tensor& slice);
  // Fills in a dynamic step's arguments, then checks and measures them as build_layout does for the others.
  Status complete(StepRun* s);
  // After a step: what nothing reads any more gives its memory back.
  void release(const StepInfo& step);

  Status bind(const plan::Step& step, uint32_t symbol, int64_t value);

  const plan::Value& plan_of(uint32_t value) const { return plan_.values[value]; }
  bool is_dynamic(uint32_t value) const { return info_->dynamic_values[value] != 0; }
  // Of the dynamic step that was completed last.
  uint8_t* scratch() const { return scratch_.data(); }
  size_t bytes() const { return memory_.bytes() + scratch_.bytes(); }
  // Whether it lies in memory of a value whose size only the data decides and that the session gives to its caller.
  bool owns(const void* p) const { return memory_.owns(p); }

 private:
  Status resolve_view(uint32_t value);
  const Status& error_of(uint32_t value) const {
    return layout_->errors[static_cast<size_t>(layout_->value_errors[value])];
  }

  const Program& program_;
  const plan::Plan& plan_;
  const int32_t threads_;
  Layout* layout_ = nullptr;
  const EntryInfo* info_ = nullptr;
  DynamicMemory memory_;  // empty: the program has no dynamic values
  Arena scratch_;
};

}  // namespace mrt
