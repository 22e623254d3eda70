// The transforms, written once for every vector width: lanes are channels.
#pragma once

#include "kernels/winograd/winograd_kernels.h"
#include "simd/vec.h"

namespace mrt {
namespace {

template <int M>
constexpr int kSide = M + 2;

// t = B' d of one line.
template <typename V>
MRT_INLINE void input_line(const V (&d)[4], V (&t)[4]) {
  t[0] = d[2] - d[0];
  t[1] = d[1] + d[2];
  t[2] = d[2] - d[1];
  t[3] = d[3] - d[1];
}

template <typename V>
MRT_INLINE void input_line(const V (&d)[6], V (&t)[6]) {
  constexpr double a2 = kPointA * kPointA, b2 = kPointB * kPointB;
  const V a = V::set(static_cast<float>(kPointA)), b = V::set(static_cast<float>(kPointB));
  const V minus_a2 = V::set(static_cast<float>(-a2)), minus_b2 = V::set(static_cast<float>(-b2));
  const V minus_sum = V::set(static_cast<float>(-(a2 + b2)));
  t[0] = fma(minus_sum, d[2], d[4]) + d[0];
  t[5] = fma(minus_sum, d[3], d[5]) + d[1];
  const V even_a = fma(minus_b2, d[2], d[4]), odd_a = fma(minus_b2, d[1], d[3]);
  const V even_b = fma(minus_a2, d[2], d[4]), odd_b = fma(minus_a2, d[1], d[3]);
  t[1] = fma(a, odd_a, even_a);
  t[2] = even_a - a * odd_a;
  t[3] = fma(b, odd_b, even_b);
  t[4] = even_b - b * odd_b;
}

// y = A' t of one line.
template <typename V>
MRT_INLINE void output_line(const V (&t)[4], V (&y)[2]) {
  y[0] = t[0] + t[1] + t[2];
  y[1] = t[1] - t[2] + t[3];
}

template <typename V>
MRT_INLINE void output_line(const V (&t)[6], V (&y)[4]) {
  constexpr double a = kPointA, b = kPointB;
  const V a1 = V::set(static_cast<float>(a)), b1 = V::set(static_cast<float>(b));
  const V a2 = V::set(static_cast<float>(a * a)), b2 = V::set(static_cast<float>(b * b));
  const V a3 = V::set(static_cast<float>(a * a * a)), b3 = V::set(static_cast<float>(b * b * b));
  const V even_a = t[1] + t[2], odd_a = t[1] - t[2], even_b = t[3] + t[4], odd_b = t[3] - t[4];
  y[0] = t[0] + even_a + even_b;
  y[1] = fma(a1, odd_a, b1 * odd_b);
  y[2] = fma(a2, even_a, b2 * even_b);
  y[3] = fma(a3, odd_a, fma(b3, odd_b, t[5]));
}

// kFull: all lanes are channels; else the first n.
template <typename V, bool kFull>
MRT_INLINE V load_some(const float* p, int64_t n) {
  return kFull ? V::load(p) : V::load(p, n);
}
template <typename V, bool kFull>
MRT_INLINE void store_some(V x, float* p, int64_t n) {
  if (kFull) {
    x.store(p);
  } else {
    x.store(p, n);
  }
}

template <typename V, int M, bool kFull>
MRT_INLINE void input_lanes(const float* const* pixels, int64_t c, int64_t n, float* out, int64_t position) {
  constexpr int side = kSide<M>;
  V half[side][side];  // transformed along the columns
#pragma GCC unroll 1
  for (int j = 0; j < side; ++j) {
    V d[side], t[side];
#pragma GCC unroll 8
    for (int i = 0; i < side; ++i) d[i] = load_some<V, kFull>(pixels[i * side + j] + c, n);
    input_line(d, t);
#pragma GCC unroll 8
    for (int i = 0; i < side; ++i) half[i][j] = t[i];
  }
#pragma GCC unroll 1
  for (int i = 0; i < side; ++i) {
    V t[side];
    input_line(half[i], t);
#pragma GCC unroll 8
    for (int j = 0; j < side; ++j) store_some<V, kFull>(t[j], out + (i * side + j) * position + c, n);
  }
}

template <typename V, int M>
void input_tile(const float* const* pixels, int64_t channels, float* out, int64_t position) {
  int64_t c = 0;
  for (; c + V::width <= channels; c += V::width) input_lanes<V, M, true>(pixels, c, V::width, out, position);
  if (c < channels) input_lanes<V, M, false>(pixels, c, channels - c, out, position);
}

// The difference of a number to itself is 0, of an infinity or NaN NaN: `odd` gathers them.
template <typename V, int M, bool kFull>
MRT_INLINE void output_lanes(const WinogradOutput& call, int64_t c, int64_t n, V& odd) {
  constexpr int side = kSide<M>;
  V half[M][side];
#pragma GCC unroll 1
  for (int j = 0; j < side; ++j) {
    V t[side], y[M];
#pragma GCC unroll 8
    for (int i = 0; i < side; ++i) t[i] = load_some<V, kFull>(call.products + (i * side + j) * call.position + c, n);
    output_line(t, y);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) half[i][j] = y[i];
  }
  const V bias = call.bias ? load_some<V, kFull>(call.bias + c, n) : V::zero();
  const V lo = V::set(call.lo), hi = V::set(call.hi);
#pragma GCC unroll 1
  for (int i = 0; i < call.rows; ++i) {
    V y[M];
    output_line(half[i], y);
    const int64_t first = i * call.line + c;
    // Written out per column: an index that is only known at run time would send y through memory.
#pragma GCC unroll 8
    for (int j = 0; j < M; ++j) {
      if (j >= call.columns) break;
      const int64_t at = first + j * call.pixel;
      odd = odd + (y[j] - y[j]);
      V x = y[j] + bias;
      if (call.residual && !call.residual_after) x = x + load_some<V, kFull>(call.residual + at, n);
      x = clamp(lo, hi, x);
      if (call.residual && call.residual_after) x = x + load_some<V, kFull>(call.residual + at, n);
      store_some<V, kFull>(x, call.y + at, n);
    }
  }
}

template <typename V, int M>
bool output_tile(const WinogradOutput& given) {
  const WinogradOutput call = given;  // a copy that no store can alias
  V odd = V::zero();
  int64_t c = 0;
  for (; c + V::width <= call.channels; c += V::width) output_lanes<V, M, true>(call, c, V::width, odd);
  if (c < call.channels) output_lanes<V, M, false>(call, c, call.channels - c, odd);
  return (odd == odd).all();
}

}  // namespace
}  // namespace mrt
