// The loops of halves.h, once for all vectors.
#pragma once

#include "kernels/gemmq/halves.h"
#include "kernels/gemmq/unpack_generic.h"

namespace mrt {
namespace {

template <typename V, bool brain>
MRT_INLINE V load16(const uint16_t* p) {
  if constexpr (brain) return V::load_brain(p);
  return V::load_half(p);
}

template <typename V, bool brain, int R>
void halves_tile(const HalvesTile& c, const TileCall& g, int rows) {
  constexpr int kVectors = kPanel / V::width;
  const float* x[R];
  rows_of_a<R>(g, rows, x);
  V sum[R][kVectors];
  zeros(sum);
  const uint16_t* w = c.w;
  float* out = c.out;
#pragma GCC unroll 2
  for (int64_t k = 0; k < c.rows; ++k, w += kPanel, out += kPanel) {
    __builtin_prefetch(w + c.next);
    V row[kVectors];
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      row[i] = load16<V, brain>(w + i * V::width);
      row[i].store(out + i * V::width);
    }
    add_row<V, R, kVectors>(x, k, row, sum);
  }
  finish_sums<V, R, kVectors>(g, sum, rows);
}

// U rows of weights at a time, each with sums of their own, so that no sum waits for another.
template <typename V, bool brain, int U>
void halves_row(const HalvesRow& c) {
  constexpr int kVectors = kPanel / V::width;
  constexpr int64_t kAhead = 64;  // rows whose weights are fetched
  V sum[U][kVectors];
  zeros(sum);
  const auto step = [&](int64_t k, int u) __attribute__((always_inline)) {
    const V a = V::set(c.a[k]);
    for (int i = 0; i < kVectors; ++i) {
      sum[u][i] = fma(a, load16<V, brain>(c.w + k * kPanel + i * V::width), sum[u][i]);
    }
  };
  int64_t k = 0;
  for (; k + U <= c.rows; k += U) {
    for (int u = 0; u < U; u += 2) __builtin_prefetch(c.w + (k + u + kAhead) * kPanel);
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) step(k + u, u);
  }
  for (; k < c.rows; ++k) step(k, 0);
  for (int i = 0; i < kVectors; ++i) {
    V total = sum[0][i];
    for (int u = 1; u < U; ++u) total = total + sum[u][i];
    total.store(c.out + i * V::width);
  }
}

template <typename V, bool brain, int R>
constexpr HalvesTable::Kind halves_kind() {
  constexpr int sums = 8 / (kPanel / V::width);  // that leave registers for the weights
  constexpr int together = sums < 4 ? sums : 4;
  return {halves_tile<V, brain, R>, halves_row<V, brain, together>};
}

// R: rows of a tile of gemm_f32, at most.
template <typename V, int R>
constexpr HalvesTable halves_table() {
  return {halves_kind<V, false, R>(), halves_kind<V, true, R>()};
}

}  // namespace
}  // namespace mrt
