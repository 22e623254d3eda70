// The loop over rows that every instruction set's entries share.
#pragma once

#include <cstring>

#include "kernels/sparse/ahead.h"
#include "kernels/sparse/qmultiply.h"
#include "simd/vec.h"

namespace mrt {
namespace {

// How many entries of each kind a row has.
struct RowCounts {
  int64_t doubled, single, wide;
};

// V: 32-bit sums, with zero-cost load, start, store; body(acc, row's counts, index, weights) adds a row's entries.
// kWidth: 4, or 1 where the four columns of w are a vector V.
template <typename V, int NV, int kWidth = 4, typename Body>
MRT_INLINE void each_row(const QSparseCall& c, Body body) {
  constexpr int kColumns = NV * V::width;
  const uint8_t* index = c.part.index;
  const int8_t* w = static_cast<const int8_t*>(c.part.weights);
  for (int64_t r = 0; r < c.rows; ++r) {
    const int64_t row = c.part.order[r];
    const uint16_t* const count = c.part.counts + r;
    const RowCounts counts{count[kSparseDoubled * c.rows], count[kSparseSingle * c.rows], count[kSparseWide * c.rows]};
    const int64_t all = counts.doubled + counts.single + counts.wide;
    if (all == 0 && !c.start) continue;
    int32_t* const sums = c.sums + row * kWidth * kColumns;
    V acc[kWidth][NV];
#pragma GCC unroll 4
    for (int i = 0; i < kWidth; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j)
        acc[i][j] = c.start ? V::start(c.start + row * 4 + i) : V::load(sums + i * kColumns + j * V::width);
    }
    body(acc, counts, index, w);
    index += all;
    w += all * 16;
#pragma GCC unroll 4
    for (int i = 0; i < kWidth; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[i][j].store(sums + i * kColumns + j * V::width);
    }
  }
}

MRT_INLINE int32_t four_bytes(const void* p) {
  int32_t v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

#if defined(MRT_SIMD_AVX2)
// Of one row of a: four columns of w.
struct RowSums {
  static constexpr int width = 4;
  __m128i v;
  static MRT_INLINE RowSums load(const int32_t* p) { return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))}; }
  static MRT_INLINE RowSums start(const int32_t* p) { return load(p); }
  MRT_INLINE void store(int32_t* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
};
MRT_INLINE __m128i row_weights(const int8_t* w) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(w)); }
MRT_INLINE __m128i row_bytes(const uint8_t* x, uint8_t index) {
  return _mm_set1_epi32(four_bytes(x + static_cast<size_t>(index) * 4));
}
#endif

}  // namespace
}  // namespace mrt
