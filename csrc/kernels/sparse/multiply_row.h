// The loops of multiply.h for one row of a: the weights of an entry are the vector. Included where there are AVX2 and
// FMA. Each sum is made in the order in which tiles of rows make it, so that it is the same.
#pragma once

#include "kernels/sparse/ahead.h"
#include "kernels/sparse/multiply.h"

namespace mrt {
namespace {

// One float, with one rounding where F32x1 has two.
struct Lane {
  static constexpr int width = 1;
  __m128 v;
  static MRT_INLINE Lane zero() { return {_mm_setzero_ps()}; }
  static MRT_INLINE Lane set(float x) { return {_mm_set_ss(x)}; }
  static MRT_INLINE Lane load(const float* p) { return {_mm_load_ss(p)}; }
  MRT_INLINE void store(float* p) const { _mm_store_ss(p, v); }
  friend MRT_INLINE Lane operator+(Lane a, Lane b) { return {_mm_add_ss(a.v, b.v)}; }
};
MRT_INLINE Lane fma(Lane a, Lane b, Lane c) { return {_mm_fmadd_ss(a.v, b.v, c.v)}; }

// Rows of four columns of w. A sum waits for the one before it, so four rows go on at a time, which are nearly as long
// as each other (packing.h).
void multiply_blocked_row(const SparseCall& c) {
  constexpr int64_t kWidth = 4, kAtOnce = 4;
  const uint8_t* index = c.part.index;
  const float* w = static_cast<const float*>(c.part.weights);
  const float* const x = c.x;
  const float* const start = c.bias ? c.bias : c.sums;
  for (int64_t r = 0; r < c.rows; r += kAtOnce) {
    int64_t begin[kAtOnce + 1] = {}, row[kAtOnce], shortest = c.rows - r < kAtOnce ? 0 : 256;
    __m128 acc[kAtOnce];
#pragma GCC unroll 4
    for (int64_t i = 0; i < kAtOnce; ++i) {
      const bool there = r + i < c.rows;
      const int64_t count = there ? c.part.counts[r + i] : 0;
      begin[i + 1] = begin[i] + count;
      shortest = count < shortest ? count : shortest;
      row[i] = there ? c.part.order[r + i] * kWidth : 0;
      acc[i] = _mm_loadu_ps(start + row[i]);
    }
    const auto add = [&](int64_t i, int64_t entry) __attribute__((always_inline)) {
      const __m128 weights = _mm_loadu_ps(w + (begin[i] + entry) * kWidth);
      acc[i] = _mm_fmadd_ps(weights, _mm_set1_ps(x[index[begin[i] + entry]]), acc[i]);
    };
    for (int64_t entry = 0; entry < shortest; ++entry) {
      prefetch_weights(w + entry * kAtOnce * kWidth);
#pragma GCC unroll 4
      for (int64_t i = 0; i < kAtOnce; ++i) add(i, entry);
    }
#pragma GCC unroll 4
    for (int64_t i = 0; i < kAtOnce; ++i) {
      for (int64_t entry = shortest; entry < begin[i + 1] - begin[i]; ++entry) add(i, entry);
      if (r + i < c.rows) _mm_storeu_ps(c.sums + row[i], acc[i]);
    }
    index += begin[kAtOnce];
    w += begin[kAtOnce] * kWidth;
  }
}

}  // namespace
}  // namespace mrt
