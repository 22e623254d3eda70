// Weighted sums of rows and of positions, vectorised over the floats of a row and over channels.
#pragma once

#include "kernels/resize/resize_kernels.h"
#include "simd/vec.h"

namespace mrt {
namespace {

template <typename V, int T>
MRT_INLINE void blend_taps(const float* const* x, const float* weight, float* y, int64_t n) {
  constexpr int w = V::width;
  int64_t i = 0;
  for (; i + w <= n; i += w) {
    V a = V::load(x[0] + i) * V::set(weight[0]);
    for (int t = 1; t < T; ++t) a = fma(V::load(x[t] + i), V::set(weight[t]), a);
    a.store(y + i);
  }
  if (i < n) {
    V a = V::load(x[0] + i, n - i) * V::set(weight[0]);
    for (int t = 1; t < T; ++t) a = fma(V::load(x[t] + i, n - i), V::set(weight[t]), a);
    a.store(y + i, n - i);
  }
}

template <typename V>
void resize_blend(const float* const* x, const float* weight, int taps, float* y, int64_t n) {
  switch (taps) {
    case 1:
      return blend_taps<V, 1>(x, weight, y, n);
    case 2:
      return blend_taps<V, 2>(x, weight, y, n);
    default:
      return blend_taps<V, 4>(x, weight, y, n);
  }
}

template <typename V, int T>
MRT_INLINE void row_taps(const float* x, const int32_t* index, const float* weight, float* y, int64_t positions,
                         int64_t c) {
  for (int64_t j = 0; j < positions; ++j, index += T, weight += T, y += c) {
    const float* from[T];
    for (int t = 0; t < T; ++t) from[t] = x + index[t] * c;
    if (c >= V::width) {
      blend_taps<V, T>(from, weight, y, c);
    } else {
      for (int64_t i = 0; i < c; ++i) {
        float a = from[0][i] * weight[0];
        for (int t = 1; t < T; ++t) a += from[t][i] * weight[t];
        y[i] = a;
      }
    }
  }
}

template <typename V>
void resize_row(const float* x, const int32_t* index, const float* weight, int taps, float* y, int64_t positions,
                int64_t c) {
  switch (taps) {
    case 1:
      return row_taps<V, 1>(x, index, weight, y, positions, c);
    case 2:
      return row_taps<V, 2>(x, index, weight, y, positions, c);
    default:
      return row_taps<V, 4>(x, index, weight, y, positions, c);
  }
}

}  // namespace
}  // namespace mrt
