// Offsets for buffers whose lifetimes are known: those that live at the same time do not overlap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mrt {

struct Buffer {
  size_t bytes = 0;
  uint32_t first = 0, last = 0;  // positions in the order of execution, both inclusive
  size_t offset = 0;             // the result, a multiple of kAlignment
};

// Returns the bytes of the whole. n log n in the number of buffers, as long as a buffer lives beside a bounded number
// of others.
size_t plan_memory(std::vector<Buffer>* buffers);

}  // namespace mrt
