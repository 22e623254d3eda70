// The tile kernel, written once: V is the vector, MR the rows, NV the vectors a row, KU the depth by which the sum is
// split over independent accumulators (tiles of few rows would otherwise wait for the latency of the addition).
#pragma once

#include "kernels/gemm/tile.h"
#include "simd/vec.h"

namespace mrt {
namespace {

// How many of the j-th vector's lanes are among the first n.
template <typename V>
MRT_INLINE int64_t lanes(int64_t n, int j) {
  const int64_t left = n - j * V::width;
  return left < 0 ? 0 : (left > V::width ? V::width : left);
}

template <typename V, int MR, int NV>
MRT_INLINE void finish_tile(const TileCall& g, V (&acc)[MR][NV]) {
  const int64_t n = g.n;
  const bool full = n == NV * V::width;
  const auto load = [&](const float* p, int j) {
    return full ? V::load(p + j * V::width) : V::load(p + j * V::width, lanes<V>(n, j));
  };
  if (g.first) {
    if (g.bias) {
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) {
        const V b = load(g.bias, j);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) acc[i][j] = acc[i][j] + b;
      }
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) acc[i][j] = acc[i][j] + load(g.c + i * g.ldc, j);
  }
  if (g.last) {
    const V lo = V::set(g.lo), hi = V::set(g.hi);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const float* r = g.residual ? g.residual + i * g.ldr : nullptr;
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) {
        V x = acc[i][j];
        if (r && !g.residual_after) x = x + load(r, j);
        x = min(hi, max(lo, x));
        if (r && g.residual_after) x = x + load(r, j);
        acc[i][j] = x;
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    float* c = g.c + i * g.ldc;
#pragma GCC unroll 16
    for (int j = 0; j < NV; ++j) {
      if (full) {
        acc[i][j].store(c + j * V::width);
      } else {
        acc[i][j].store(c + j * V::width, lanes<V>(n, j));
      }
    }
  }
}

template <typename V, int MR, int NV, int KU>
MRT_INLINE void tile_body(const TileCall& g) {
  V acc[KU][MR][NV];
#pragma GCC unroll 16
  for (int u = 0; u < KU; ++u)
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) acc[u][i][j] = V::zero();

  const float* w = g.w;
  const float* const* a = g.a;
  const int64_t ldw = g.ldw;
  for (int64_t tap = g.taps; tap > 0; --tap, a += MR) {
    const float* row[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) row[i] = a[i] + g.a_offset;
    const auto step = [&](int64_t k, V(&sum)[MR][NV]) __attribute__((always_inline)) {
      V b[NV];
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) b[j] = V::load(w + j * V::width);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const V x = V::set(row[i][k]);
#pragma GCC unroll 16
        for (int j = 0; j < NV; ++j) sum[i][j] = fma(x, b[j], sum[i][j]);
      }
      w += ldw;
    };
    int64_t k = 0;
    for (; k + KU <= g.kc; k += KU) {
#pragma GCC unroll 16
      for (int u = 0; u < KU; ++u) step(k + u, acc[u]);
    }
    if (KU > 1) {
      for (; k < g.kc; ++k) step(k, acc[0]);
    }
  }
#pragma GCC unroll 16
  for (int u = 1; u < KU; ++u)
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) acc[0][i][j] = acc[0][i][j] + acc[u][i][j];
  finish_tile<V, MR, NV>(g, acc[0]);
}

// Half a panel where that is enough.
template <typename V, int MR, int KU, int KUHalf>
void tile(const TileCall& g) {
  constexpr int full = kPanel / V::width;
  if (g.n > kPanel / 2) {
    tile_body<V, MR, full, KU>(g);
  } else {
    tile_body<V, MR, full / 2, KUHalf>(g);
  }
}

}  // namespace
}  // namespace mrt
