// Layer and RMS norm of one row. The variance is taken in a second pass, around the mean: a row is short, its second
// reading comes from L1, and no digits cancel as they do in E[x^2] - E[x]^2.
#pragma once

#include "kernels/norm/norm_kernels.h"
#include "simd/vec.h"

namespace mrt {
namespace {

// s = x + residual, kept in sum or, if nobody asked for it, in y; returns where s is.
template <typename V>
MRT_INLINE const float* add_residual(const NormRow& r) {
  constexpr int w = V::width;
  float* s = r.sum != nullptr ? r.sum : r.y;
  if (r.residual == nullptr && r.sum == nullptr) return r.x;
  int64_t i = 0;
  if (r.residual == nullptr) {
    for (; i + w <= r.d; i += w) V::load(r.x + i).store(s + i);
    if (i < r.d) V::load(r.x + i, r.d - i).store(s + i, r.d - i);
    return s;
  }
  for (; i + w <= r.d; i += w) (V::load(r.x + i) + V::load(r.residual + i)).store(s + i);
  if (i < r.d) (V::load(r.x + i, r.d - i) + V::load(r.residual + i, r.d - i)).store(s + i, r.d - i);
  return s;
}

// sum of (s_i - shift)^p, p 1 or 2, in four chains.
template <typename V, int p>
MRT_INLINE float sum_of_powers(const float* s, int64_t d, float shift) {
  constexpr int w = V::width;
  const V c = V::set(shift);
  V a0 = V::zero(), a1 = a0, a2 = a0, a3 = a0;
  const auto add = [&](V a, V x) __attribute__((always_inline)) {
    if (p == 1) return a + x;
    const V t = x - c;
    return fma(t, t, a);
  };
  int64_t i = 0;
  for (; i + 4 * w <= d; i += 4 * w) {
    a0 = add(a0, V::load(s + i));
    a1 = add(a1, V::load(s + i + w));
    a2 = add(a2, V::load(s + i + 2 * w));
    a3 = add(a3, V::load(s + i + 3 * w));
  }
  for (; i + w <= d; i += w) a0 = add(a0, V::load(s + i));
  float total = reduce_add((a0 + a1) + (a2 + a3));
  for (; i < d; ++i) {  // lanes that are not there would add shift^2
    const float t = s[i] - (p == 1 ? 0.0f : shift);
    total += p == 1 ? t : t * t;
  }
  return total;
}

// y = (s - mean) * scale * gamma + beta
template <typename V>
MRT_INLINE void scale_row(const NormRow& r, const float* s, float mean, float scale) {
  constexpr int w = V::width;
  const V m = V::set(mean), k = V::set(scale);
  int64_t i = 0;
  if (r.gamma != nullptr && r.beta != nullptr) {
    for (; i + w <= r.d; i += w) {
      fma((V::load(s + i) - m) * k, V::load(r.gamma + i), V::load(r.beta + i)).store(r.y + i);
    }
  } else {
    for (; i + w <= r.d; i += w) {
      V y = (V::load(s + i) - m) * k;
      if (r.gamma != nullptr) y = y * V::load(r.gamma + i);
      if (r.beta != nullptr) y = y + V::load(r.beta + i);
      y.store(r.y + i);
    }
  }
  if (i < r.d) {
    const int64_t n = r.d - i;
    V y = (V::load(s + i, n) - m) * k;
    if (r.gamma != nullptr) y = y * V::load(r.gamma + i, n);
    if (r.beta != nullptr) y = y + V::load(r.beta + i, n);
    y.store(r.y + i, n);
  }
}

// Not std::sqrt: that would be a weak symbol where it is not inlined.
MRT_INLINE float inverse_root(float x) { return 1.0f / __builtin_sqrtf(x); }

template <typename V>
void layer_norm_row(const NormRow& r) {
  const float* s = add_residual<V>(r);
  const float n = static_cast<float>(r.d);
  const float mean = sum_of_powers<V, 1>(s, r.d, 0.0f) / n;
  const float variance = sum_of_powers<V, 2>(s, r.d, mean) / n;
  scale_row<V>(r, s, mean, inverse_root(variance + r.epsilon));
}

template <typename V>
void rms_norm_row(const NormRow& r) {
  const float* s = add_residual<V>(r);
  const float mean_square = sum_of_powers<V, 2>(s, r.d, 0.0f) / static_cast<float>(r.d);
  scale_row<V>(r, s, 0.0f, inverse_root(mean_square + r.epsilon));
}

}  // namespace
}  // namespace mrt
