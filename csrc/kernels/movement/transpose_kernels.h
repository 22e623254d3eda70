// The inner function of transpose that every instruction set fills in.
#pragma once

#include "kernels/checks.h"

namespace mrt {

// dst[c * dst_stride + r] = src[r * src_stride + c] for r < rows, c < cols; strides in elements.
struct TransposeKernel {
  void (*tile1)(const uint8_t* src, int64_t src_stride, uint8_t* dst, int64_t dst_stride, int64_t rows, int64_t cols);
  void (*tile2)(const uint16_t* src, int64_t src_stride, uint16_t* dst, int64_t dst_stride, int64_t rows, int64_t cols);
  void (*tile4)(const uint32_t* src, int64_t src_stride, uint32_t* dst, int64_t dst_stride, int64_t rows, int64_t cols);
  void (*tile8)(const uint64_t* src, int64_t src_stride, uint64_t* dst, int64_t dst_stride, int64_t rows, int64_t cols);
};

#define MRT_TABLE TransposeKernel
#define MRT_LIST kTranspose
#define MRT_KERNELS "kernels/movement/kernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
