// Which steps run a few images at a time.
//
// Between two layers a batch of activations is often more than a cache holds: the next layer reads from memory what the
// last one has just written. In a stretch of steps that treat every image alone, a few images can go through all of the
// steps before the next ones begin; what lives only within the stretch then takes the memory of these few. Where there
// are enough of them, threads take whole micro-batches, and need not wait for each other after every step.
#pragma once

#include <cstdint>
#include <vector>

#include "base/tensor.h"
#include "runtime/program.h"

namespace mrt {

// Steps [first, last] of an entry's block, run batch / group times, by so many lanes (threads) side by side.
struct MicroBatch {
  size_t first, last;
  int64_t batch, group;         // extents of the outermost dimension; group divides batch
  int32_t lanes;                // 1: all threads work on each step
  std::vector<uint32_t> inner;  // arena values that live only within one of these times
};

// What `bytes` of the whole batch are for one group.
inline size_t group_bytes(size_t bytes, const MicroBatch& stretch) {
  return bytes / static_cast<size_t>(stretch.batch) * static_cast<size_t>(stretch.group);
}

// Bit k: argument k of a kernel step has the batch as its outermost dimension (Operator::batched); 0: the step has
// none.
uint32_t batched_arguments(const StepInfo& info, const Tensor* in, int n_in, const Tensor* out, int n_out);

}  // namespace mrt
