// Softmax of one row in three passes over memory that stays in L1: maximum, exponentials and their sum, scaling.
//
// The maximum is taken over the numbers that are not NaN; a NaN, two +inf or nothing but -inf make the sum NaN, and so
// the whole row, as in torch.
#pragma once

#include "simd/math.h"

namespace mrt {
namespace {

alignas(32) const float kLaneIndex[8] = {0, 1, 2, 3, 4, 5, 6, 7};

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

template <typename V>
void softmax_row(const float* x, float* y, int64_t d, bool log_of) {
  constexpr int w = V::width;
  const V m = V::set(row_max<V>(x, d));
  V sum = V::zero();
  int64_t i = 0;
  for (; i + w <= d; i += w) {
    const V e = exp_flush(V::load(x + i) - m);
    if (!log_of) e.store(y + i);
    sum = sum + e;
  }
  if (i < d) {
    const V e = exp_flush(load_or<V>(x + i, d - i, -__builtin_inff()) - m);
    if (!log_of) e.store(y + i, d - i);
    // Lanes that are not there are exp(-inf) = 0, except where m is infinite too and the row is NaN anyway.
    sum = sum + e;
  }
  const float total = reduce_add(sum);
  if (log_of) {
    const V shift = log(V::set(total));
    for (i = 0; i + w <= d; i += w) (V::load(x + i) - m - shift).store(y + i);
    if (i < d) (V::load(x + i, d - i) - m - shift).store(y + i, d - i);
  } else {
    const V scale = V::set(1.0f / total);
    for (i = 0; i + w <= d; i += w) (V::load(y + i) * scale).store(y + i);
    if (i < d) (V::load(y + i, d - i) * scale).store(y + i, d - i);
  }
}

}  // namespace
}  // namespace mrt
