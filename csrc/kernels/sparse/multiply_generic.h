// The loops of multiply.h, once for all vectors V; NV of them hold the columns.
#pragma once

#include "kernels/sparse/ahead.h"
#include "kernels/sparse/multiply.h"
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

// Squares of eight rows and columns, those of the longer of both sides next to each other: what is near is read, or
// written, together. `kLook`: returns whether all is finite.
template <bool kLook>
MRT_INLINE bool transpose_all(const float* src, int64_t src_stride, int64_t rows, int64_t columns, float* dst,
                              int64_t dst_stride) {
  float seen = 0.0f;  // what is not finite makes it NaN
  const auto each = [&](int64_t row, int64_t row_end, int64_t column, int64_t column_end) {
    for (int64_t c = column; c < column_end; ++c) {
      for (int64_t r = row; r < row_end; ++r) {
        const float x = src[r * src_stride + c];
        if (kLook) seen += x * 0.0f;
        dst[c * dst_stride + r] = x;
      }
    }
  };
  int64_t whole_rows = 0, whole_columns = 0;
#if defined(MRT_SIMD_AVX2)
  whole_rows = rows & ~int64_t{7}, whole_columns = columns & ~int64_t{7};
  __m256 all = _mm256_setzero_ps();  // of products with zero, which are zeros or NaN: an `or` waits for one cycle
  const auto square = [&](int64_t r, int64_t c) {
    const float* const from = src + r * src_stride + c;
    transpose8x8(from, src_stride, dst + c * dst_stride + r, dst_stride);
#pragma GCC unroll 8
    for (int i = 0; kLook && i < 8; ++i)
      all = _mm256_or_ps(all, _mm256_mul_ps(_mm256_loadu_ps(from + i * src_stride), _mm256_setzero_ps()));
  };
  if (kLook) {
    for (int64_t r = 0; r < whole_rows; r += 8)
      for (int64_t c = 0; c < whole_columns; c += 8) square(r, c);
    seen += reduce_add(F32x8{all});
  } else {
    for (int64_t c = 0; c < whole_columns; c += 8)
      for (int64_t r = 0; r < whole_rows; r += 8) square(r, c);
  }
#endif
  each(0, whole_rows, whole_columns, columns);
  each(whole_rows, rows, 0, columns);
  return seen == 0.0f;
}

bool load(const float* src, int64_t src_stride, int64_t rows, int64_t columns, float* dst, int64_t dst_stride) {
  return transpose_all<true>(src, src_stride, rows, columns, dst, dst_stride);
}

void transpose(const float* src, int64_t src_stride, int64_t rows, int64_t columns, float* dst, int64_t dst_stride) {
  transpose_all<false>(src, src_stride, rows, columns, dst, dst_stride);
}

}  // namespace
}  // namespace mrt
