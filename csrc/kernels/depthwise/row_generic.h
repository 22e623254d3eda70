// Depthwise rows, written once for every vector width: blocks of up to four pixels share the loads of the weights (and,
// for the fixed filters, of the input), channels run innermost so that memory is read in order.
#pragma once

#include "kernels/depthwise/row.h"
#include "simd/vec.h"

namespace mrt {
namespace {

// n of V::width lanes; a full vector where that many channels are left.
template <typename V, bool kFull>
MRT_INLINE V load_lanes(const float* p, int64_t n) {
  return kFull ? V::load(p) : V::load(p, n);
}

// What is left to do with the sums of PX pixels that are `channels` floats apart.
template <typename V, int PX, bool kFull>
MRT_INLINE void finish(const DepthwiseRow& d, V (&acc)[PX], int64_t p, int64_t c, int64_t n) {
  const V lo = V::set(d.lo), hi = V::set(d.hi);
  const int64_t first = p * d.channels + c;
  const float* const r = d.residual;
  if (r && !d.residual_after) {
#pragma GCC unroll 8
    for (int i = 0; i < PX; ++i) acc[i] = acc[i] + load_lanes<V, kFull>(r + first + i * d.channels, n);
  }
#pragma GCC unroll 8
  for (int i = 0; i < PX; ++i) acc[i] = clamp(lo, hi, acc[i]);
  if (r && d.residual_after) {
#pragma GCC unroll 8
    for (int i = 0; i < PX; ++i) acc[i] = acc[i] + load_lanes<V, kFull>(r + first + i * d.channels, n);
  }
  float* const y = d.y + first;
#pragma GCC unroll 8
  for (int i = 0; i < PX; ++i) {
    if (kFull) {
      acc[i].store(y + i * d.channels);
    } else {
      acc[i].store(y + i * d.channels, n);
    }
  }
}

template <typename V, int PX, bool kFull>
MRT_INLINE void any_channels(const DepthwiseRow& d, int64_t p, int64_t c, int64_t n) {
  const float* w = d.w + c / kChannelBlock * d.w_block + c % kChannelBlock;
  const V b = d.bias ? load_lanes<V, kFull>(d.bias + c, n) : V::zero();
  V acc[PX];
#pragma GCC unroll 8
  for (int i = 0; i < PX; ++i) acc[i] = b;
  const int64_t first = p * d.step + c;
  for (int64_t t = 0; t < d.n_taps; ++t) {
    const V weight = V::load(w + d.weight_offset[t]);
    const float* x = d.taps[t] + first;
#pragma GCC unroll 8
    for (int i = 0; i < PX; ++i) acc[i] = fma(load_lanes<V, kFull>(x + i * d.step, n), weight, acc[i]);
  }
  finish<V, PX, kFull>(d, acc, p, c, n);
}

template <typename V, int K, int S, int PX, bool kFull>
MRT_INLINE void fixed_channels(const DepthwiseRow& d, int64_t p, int64_t c, int64_t n) {
  constexpr int columns = (PX - 1) * S + K;
  const float* w = d.w + c / kChannelBlock * d.w_block + c % kChannelBlock + d.weight_offset[0];
  const V b = d.bias ? load_lanes<V, kFull>(d.bias + c, n) : V::zero();
  V acc[PX];
#pragma GCC unroll 8
  for (int i = 0; i < PX; ++i) acc[i] = b;
  const int64_t first = p * d.step + c, pixel = d.pixel;
  for (int64_t line = 0; line < d.n_lines; ++line, w += K * kChannelBlock) {
    const float* x = d.taps[line * K] + first;
    V in[columns];
#pragma GCC unroll 16
    for (int i = 0; i < columns; ++i) in[i] = load_lanes<V, kFull>(x + i * pixel, n);
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
      const V weight = V::load(w + k * kChannelBlock);
#pragma GCC unroll 8
      for (int i = 0; i < PX; ++i) acc[i] = fma(in[i * S + k], weight, acc[i]);
    }
  }
  finish<V, PX, kFull>(d, acc, p, c, n);
}

// The last channels, fewer than a vector: a function of its own, which all filters share.
template <typename V, int PX>
__attribute__((noinline)) void last_channels(const DepthwiseRow& d, int64_t p, int64_t c) {
  any_channels<V, PX, false>(d, p, c, d.n - c);
}

// K is 0 for any filter. `call` is what d is a copy of.
template <typename V, int K, int S, int PX>
MRT_INLINE void pixels(const DepthwiseRow& d, const DepthwiseRow& call, int64_t p) {
  int64_t c = 0;
  for (; c + V::width <= d.n; c += V::width) {
    if constexpr (K == 0) {
      any_channels<V, PX, true>(d, p, c, V::width);
    } else {
      fixed_channels<V, K, S, PX, true>(d, p, c, V::width);
    }
  }
  if (c < d.n) last_channels<V, PX>(call, p, c);
}

template <typename V, int K, int S>
void row(const DepthwiseRow& call) {
  const DepthwiseRow d = call;  // a copy that no store can alias: its members stay in registers
  int64_t p = 0;
  // 5 pixels are 3 + 2, not 4 + 1: a lone pixel loads a weight for every multiplication.
  for (; d.count - p >= 6 || d.count - p == 4; p += 4) pixels<V, K, S, 4>(d, call, p);
  const int64_t left = d.count - p;
  if (left == 5 || left == 3) {
    pixels<V, K, S, 3>(d, call, p);
    p += 3;
  }
  if (left == 5 || left == 2) pixels<V, K, S, 2>(d, call, p);
  if (left == 1) pixels<V, K, S, 1>(d, call, p);
}

}  // namespace
}  // namespace mrt
