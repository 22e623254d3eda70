// Bytes to floats and sums to integers, around the float kernel of depthwise rows.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace mrt {

struct QDepthwiseTable {
  // out[p][c] = x[p][c] - zero for `pixels` pixels, `stride` bytes and `ldo` floats apart, of n channels.
  void (*widen)(const uint8_t* x, int64_t pixels, int64_t stride, int64_t n, int32_t zero, float* out, int64_t ldo);
  // Whole numbers of fewer than 31 bits, as integers where they lie; n is a multiple of 8.
  void (*to_ints)(float* x, int64_t n);
};
#define MRT_TABLE QDepthwiseTable
#define MRT_LIST kQDepthwise
#define MRT_KERNELS "kernels/qdepthwise/kernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
