// Offsets for buffers whose lifetimes are known: those that live at the same time do not overlap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mrt {

struct Lifetime {
  size_t bytes = 0;
  uint32_t first = 0, last = 0;  // positions in the order of execution, both inclusive
  size_t offset = 0;             // the result, a multiple of kAlignment
};

// Greedy by size, best fit: the largest buffer first, each into the smallest gap that is free all its life (Pisarchyk
// and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020). Returns the bytes of the whole.
size_t plan_memory(std::vector<Lifetime>* buffers);

}  // namespace mrt
