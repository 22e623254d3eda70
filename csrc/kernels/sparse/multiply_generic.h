// The loops of multiply.h, once for all vectors V; NV of them hold the columns.
#pragma once

#include "kernels/sparse/ahead.h"
#include "kernels/sparse/multiply.h"
#include "simd/transpose16x16.h"
#include "simd/transpose8x8.h"
#include "simd/vec.h"

namespace mrt {
namespace {

// Rows of one column: U entries at a time, each with sums of its own, so that none waits for the other.
template <typename V, int NV, int U>
void multiply_single(const SparseCall& c) {
  constexpr int kColumns = NV * V::width;
  const uint8_t* index = c.part.index;
  const float* w = static_cast<const float*>(c.part.weights);
  const float* const from = c.x;
  for (int64_t r = 0; r < c.rows; ++r) {
    const int64_t row = c.part.order[r];
    int64_t left = c.part.counts[r];
    if (left == 0 && !c.bias) continue;
    for (int64_t e = 0; e < left; e += 16) prefetch_weights(w + e);
    float* const sums = c.sums + row * kColumns;
    V acc[U][NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      acc[0][j] = c.bias ? V::set(c.bias[row]) : V::load(sums + j * V::width);
#pragma GCC unroll 4
      for (int u = 1; u < U; ++u) acc[u][j] = V::zero();
    }
    const auto add = [&](int at, V(&to)[NV]) __attribute__((always_inline)) {
      const float* const x = from + static_cast<size_t>(index[at]) * kColumns;
      const V weight = V::set(w[at]);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) to[j] = fma(weight, V::load(x + j * V::width), to[j]);
    };
    if ((left & 1) != 0) add(0, acc[0]), ++index, ++w;
    if (U > 2 && (left & 2) != 0) add(0, acc[0]), add(1, acc[1]), index += 2, w += 2;
    left &= -U;
    for (; left > 0; left -= U, index += U, w += U) {
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) add(u, acc[u]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
#pragma GCC unroll 4
      for (int u = 1; u < U; ++u) acc[0][j] = acc[0][j] + acc[u][j];
      acc[0][j].store(sums + j * V::width);
    }
  }
}

// Rows of four columns.
template <typename V, int NV>
void multiply_blocked(const SparseCall& c) {
  constexpr int kColumns = NV * V::width, kWidth = 4;
  const uint8_t* index = c.part.index;
  const float* w = static_cast<const float*>(c.part.weights);
  const float* const from = c.x;
  for (int64_t r = 0; r < c.rows; ++r) {
    const int64_t row = c.part.order[r];
    int64_t left = c.part.counts[r];
    if (left == 0 && !c.bias) continue;
    float* const sums = c.sums + row * kWidth * kColumns;
    V acc[kWidth][NV];
#pragma GCC unroll 4
    for (int i = 0; i < kWidth; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        acc[i][j] = c.bias ? V::set(c.bias[row * kWidth + i]) : V::load(sums + i * kColumns + j * V::width);
      }
    }
    for (; left > 0; --left, ++index, w += kWidth) {
      prefetch_weights(w);
      const float* const x = from + static_cast<size_t>(*index) * kColumns;
      V columns[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) columns[j] = V::load(x + j * V::width);
#pragma GCC unroll 4
      for (int i = 0; i < kWidth; ++i) {
        const V weight = V::set(w[i]);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[i][j] = fma(weight, columns[j], acc[i][j]);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kWidth; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j].store(sums + i * kColumns + j * V::width);
    }
  }
}

// Squares of eight rows and columns; those below each other in dst are written one after the other.
void transpose(const float* src, int64_t src_stride, int64_t rows, int64_t columns, float* dst, int64_t dst_stride) {
  int64_t whole_rows = 0, whole_columns = 0;
#if defined(MRT_SIMD_AVX512)
  // Not far apart, where 16 lines of dst would be more than L1 keeps of the same place in a page.
  constexpr int64_t kNear = 64;
  if (dst_stride <= kNear && rows % 16 == 0 && columns % 16 == 0) {
    for (int64_t c = 0; c < columns; c += 16)
      for (int64_t r = 0; r < rows; r += 16)
        transpose16x16(src + r * src_stride + c, src_stride, dst + c * dst_stride + r, dst_stride);
    return;
  }
#endif
#if defined(MRT_SIMD_TRANSPOSE8X8)
  whole_rows = rows & ~int64_t{7}, whole_columns = columns & ~int64_t{7};
  for (int64_t c = 0; c < whole_columns; c += 8)
    for (int64_t r = 0; r < whole_rows; r += 8)
      transpose8x8(src + r * src_stride + c, src_stride, dst + c * dst_stride + r, dst_stride);
#endif
  for (int64_t c = whole_rows < rows ? 0 : whole_columns; c < columns; ++c) {
    for (int64_t r = c < whole_columns ? whole_rows : 0; r < rows; ++r)
      dst[c * dst_stride + r] = src[r * src_stride + c];
  }
}

template <typename V>
bool load(const float* src, int64_t src_stride, int64_t rows, int64_t columns, float* dst, int64_t dst_stride) {
  typename V::Int seen = V::zero().bits();  // of products with zero, which are zeros or NaN
  for (int64_t r = 0; r < rows; r += 8) {
    const int64_t some = rows - r < 8 ? rows - r : 8;
    const float* from = src + r * src_stride;
    transpose(from, src_stride, some, columns, dst + r, dst_stride);
    for (int64_t i = 0; i < some; ++i, from += src_stride) {
      int64_t c = 0;
      for (; c + V::width <= columns; c += V::width) seen = seen | (V::load(from + c) * V::zero()).bits();
      seen = seen | (V::load(from + c, columns - c) * V::zero()).bits();
    }
  }
  return reduce_add(V::from_bits(seen)) == 0.0f;
}

}  // namespace
}  // namespace mrt
