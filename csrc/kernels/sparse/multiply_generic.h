// The loops of multiply.h, once for all vectors V; NV of them hold the columns.
#pragma once

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

// `kLook`: returns whether all is finite.
template <bool kLook>
MRT_INLINE bool transpose_all(const float* src, int64_t src_stride, int64_t rows, int64_t columns, float* dst,
                              int64_t dst_stride) {
  int64_t r = 0;
  float seen = 0.0f;  // what is not finite makes it NaN
  const auto rest = [&](int64_t from, int64_t to, int64_t column) {
    for (int64_t c = column; c < columns; ++c) {
      for (int64_t i = from; i < to; ++i) {
        const float x = src[i * src_stride + c];
        if (kLook) seen += x * 0.0f;
        dst[c * dst_stride + i] = x;
      }
    }
  };
#if defined(MRT_SIMD_AVX2)
  F32x8 all = F32x8::zero();
  for (; r + 8 <= rows; r += 8) {
    int64_t c = 0;
    for (; c + 8 <= columns; c += 8) {
      const float* const from = src + r * src_stride + c;
      transpose8x8(from, src_stride, dst + c * dst_stride + r, dst_stride);
#pragma GCC unroll 8
      for (int i = 0; kLook && i < 8; ++i) all = fma(F32x8::load(from + i * src_stride), F32x8::zero(), all);
    }
    rest(r, r + 8, c);
  }
  if (kLook) seen += reduce_add(all);
#endif
  rest(r, rows, 0);
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
