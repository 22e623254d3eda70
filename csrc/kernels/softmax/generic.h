// Softmax of rows in three passes over memory that stays in L1: maximum, exponentials and their sum, scaling.
//
// The maximum is taken over the numbers that are not NaN; a NaN, two +inf or nothing but -inf make the sum NaN, and so
// the whole row, as in torch.
#pragma once

#include "simd/math.h"

namespace mrt {
namespace {

alignas(64) const float kLaneIndex[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// The first n lanes from p, the others hold `fill`.
template <typename V>
MRT_INLINE V load_or(const float* p, int64_t n, float fill) {
  return select(V::load(kLaneIndex) < V::set(static_cast<float>(n)), V::load(p, n), V::set(fill));
}

template <typename V>
MRT_INLINE float row_max(const float* x, int64_t d) {
  constexpr int w = V::width;
  V m0 = V::set(-__builtin_inff()), m1 = m0, m2 = m0, m3 = m0;
  int64_t i = 0;
  for (; i + 4 * w <= d; i += 4 * w) {
    m0 = max(V::load(x + i), m0);
    m1 = max(V::load(x + i + w), m1);
    m2 = max(V::load(x + i + 2 * w), m2);
    m3 = max(V::load(x + i + 3 * w), m3);
  }
  for (; i + w <= d; i += w) m0 = max(V::load(x + i), m0);
  if (i < d) m0 = max(load_or<V>(x + i, d - i, -__builtin_inff()), m0);
  return reduce_max(max(max(m0, m1), max(m2, m3)));
}

// y = exp(x - m), written unless only the sum is wanted; returns the sum.
template <typename V>
MRT_INLINE float row_exp(const float* x, float* y, int64_t d, float shift, bool write) {
  constexpr int w = V::width;
  const V m = V::set(shift);
  V sum0 = V::zero(), sum1 = sum0;
  int64_t i = 0;
  for (; i + 2 * w <= d; i += 2 * w) {
    const V e0 = exp_flush(V::load(x + i) - m), e1 = exp_flush(V::load(x + i + w) - m);
    if (write) {
      e0.store(y + i);
      e1.store(y + i + w);
    }
    sum0 = sum0 + e0;
    sum1 = sum1 + e1;
  }
  for (; i < d; i += w) {
    const int64_t n = d - i < w ? d - i : w;
    // Lanes that are not there are exp(-inf) = 0, except where m is infinite too and the row is NaN anyway.
    const V e = exp_flush(load_or<V>(x + i, n, -__builtin_inff()) - m);
    if (write) e.store(y + i, n);
    sum0 = sum0 + e;
  }
  return reduce_add(sum0 + sum1);
}

template <typename V>
MRT_INLINE void row_scale(float* y, int64_t d, float factor) {
  constexpr int w = V::width;
  const V f = V::set(factor);
  int64_t i = 0;
  for (; i + w <= d; i += w) (V::load(y + i) * f).store(y + i);
  if (i < d) (V::load(y + i, d - i) * f).store(y + i, d - i);
}

template <typename V>
MRT_INLINE void row_log(const float* x, float* y, int64_t d, float shift, float log_sum) {
  constexpr int w = V::width;
  const V m = V::set(shift), l = V::set(log_sum);
  int64_t i = 0;
  for (; i + w <= d; i += w) (V::load(x + i) - m - l).store(y + i);
  if (i < d) (V::load(x + i, d - i) - m - l).store(y + i, d - i);
}

// A few rows go through each pass together, so that the chains at a row's end (reductions, the division) overlap.
template <typename V>
void softmax_rows(const float* x, float* y, int64_t rows, int64_t d, bool log_of) {
  constexpr int64_t kBlock = 4;
  float m[kBlock], sum[kBlock];
  for (int64_t r = 0; r < rows; r += kBlock, x += kBlock * d, y += kBlock * d) {
    const int64_t n = rows - r < kBlock ? rows - r : kBlock;
    for (int64_t i = 0; i < n; ++i) m[i] = row_max<V>(x + i * d, d);
    for (int64_t i = 0; i < n; ++i) sum[i] = row_exp<V>(x + i * d, y + i * d, d, m[i], !log_of);
    for (int64_t i = 0; i < n; ++i) {
      if (log_of) {
        row_log<V>(x + i * d, y + i * d, d, m[i], log(F32x1::set(sum[i])).v);
      } else {
        row_scale<V>(y + i * d, d, 1.0f / sum[i]);
      }
    }
  }
}

}  // namespace
}  // namespace mrt
