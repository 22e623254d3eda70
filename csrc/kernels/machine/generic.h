// The loops, written once for every vector width.
#pragma once

#include "kernels/machine/machine.h"
#include "simd/vec.h"

namespace mrt {
namespace {

constexpr int kChains = 12;  // the latency of a multiply-add times how many start in a cycle, and some more

template <typename V>
float multiply(int64_t rounds) {
  V sums[kChains];
  const V a = V::set(0.999f), b = V::set(0.001f);
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) sums[i] = V::set(static_cast<float>(i));
  for (int64_t n = 0; n < rounds; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sums[i] = fma(sums[i], a, b);
  }
#pragma GCC unroll 16
  for (int i = 1; i < kChains; ++i) sums[0] = sums[0] + sums[i];
  return reduce_add(sums[0]);
}

template <typename V>
float read(const float* data, int64_t count) {
  constexpr int streams = 64 / V::width < 8 ? 64 / V::width : 8;
  V sums[streams];
#pragma GCC unroll 8
  for (int i = 0; i < streams; ++i) sums[i] = V::zero();
  for (int64_t n = 0; n + streams * V::width <= count; n += streams * V::width) {
#pragma GCC unroll 8
    for (int i = 0; i < streams; ++i) sums[i] = sums[i] + V::load(data + n + i * V::width);
  }
#pragma GCC unroll 8
  for (int i = 1; i < streams; ++i) sums[0] = sums[0] + sums[i];
  return reduce_add(sums[0]);
}

}  // namespace
}  // namespace mrt
