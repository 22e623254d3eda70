// Transposition of a tile in small blocks, so that the cache lines of a block's rows and columns stay in L1.
#pragma once

#include "kernels/movement/transpose_kernels.h"
#include "simd/vec.h"

namespace mrt {
namespace {

template <typename T>
MRT_INLINE void transpose_edge(const T* src, int64_t src_stride, T* dst, int64_t dst_stride, int64_t rows,
                               int64_t cols) {
  for (int64_t c = 0; c < cols; ++c) {
    for (int64_t r = 0; r < rows; ++r) dst[c * dst_stride + r] = src[r * src_stride + c];
  }
}

template <typename T>
void transpose_blocks(const T* src, int64_t src_stride, T* dst, int64_t dst_stride, int64_t rows, int64_t cols) {
  constexpr int64_t b = 8;
  for (int64_t c = 0; c < cols; c += b) {
    const int64_t nc = cols - c < b ? cols - c : b;
    for (int64_t r = 0; r < rows; r += b) {
      const int64_t nr = rows - r < b ? rows - r : b;
      transpose_edge(src + r * src_stride + c, src_stride, dst + c * dst_stride + r, dst_stride, nr, nc);
    }
  }
}

}  // namespace
}  // namespace mrt
