// The tile kernel, written once: V is the vector, MR the rows, NV the vectors a row, KU the depth by which the sum is
// split over independent accumulators (tiles of few rows would otherwise wait for the latency of the addition).
#pragma once

#include "kernels/gemm/tile.h"
#include "simd/by_lane.h"

namespace mrt {
namespace {

// How many of the j-th vector's lanes are among the first n.
template <typename V>
MRT_INLINE int64_t lanes(int64_t n, int j) {
  const int64_t left = n - j * V::width;
  return left < 0 ? 0 : (left > V::width ? V::width : left);
}

// One row of NV vectors, the first n lanes of them where the tile is not full.
template <typename V, int NV, bool kFull>
MRT_INLINE void load_row(const float* p, int64_t n, V (&out)[NV]) {
#pragma GCC unroll 16
  for (int j = 0; j < NV; ++j) {
    out[j] = kFull ? V::load(p + j * V::width) : V::load(p + j * V::width, lanes<V>(n, j));
  }
}
template <typename V, int MR, int NV, bool kFull>
MRT_INLINE void add_rows(const float* p, int64_t stride, int64_t n, V (&acc)[MR][NV]) {
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    V row[NV];
    load_row<V, NV, kFull>(p + i * stride, n, row);
#pragma GCC unroll 16
    for (int j = 0; j < NV; ++j) acc[i][j] = acc[i][j] + row[j];
  }
}

// Bias or the earlier sum, residual, clamping, and the store. Conditions are outside of the loops, and members are read
// before the stores, which the compiler must take to alias them.
template <typename V, int MR, int NV, bool kFull>
MRT_INLINE void finish_tile(const TileCall& g, float* c, const float* residual, V (&acc)[MR][NV]) {
  const int64_t ldc = g.ldc, n = g.n;
  if (!g.first) {
    add_rows<V, MR, NV, kFull>(c, ldc, n, acc);
  } else if (g.bias) {
    add_rows<V, MR, NV, kFull>(g.bias, 0, n, acc);
  }
  if (g.last) {
    if (residual && !g.residual_after) add_rows<V, MR, NV, kFull>(residual, g.ldr, n, acc);
    const V lo = V::set(g.lo), hi = V::set(g.hi);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) acc[i][j] = clamp(lo, hi, acc[i][j]);
    if (residual && g.residual_after) add_rows<V, MR, NV, kFull>(residual, g.ldr, n, acc);
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < NV; ++j) {
      float* const to = c + i * ldc + j * V::width;
      if (kFull) {
        acc[i][j].store(to);
      } else {
        acc[i][j].store(to, lanes<V>(n, j));
      }
    }
  }
}

// The same of tiles that are not full, row by row from where their sums were stored: one function for all heights.
template <typename V, int NV>
#if __has_attribute(noclone)
__attribute__((noclone))
#endif
__attribute__((noinline)) void finish_partial(const TileCall& g, float* c, const float* residual, const float* sums,
                                              int rows) {
  for (int i = 0; i < rows; ++i, sums += NV * V::width) {
    V acc[1][NV];
#pragma GCC unroll 16
    for (int j = 0; j < NV; ++j) acc[0][j] = V::load(sums + j * V::width);
    finish_tile<V, 1, NV, false>(g, c + i * g.ldc, residual ? residual + i * g.ldr : nullptr, acc);
  }
}

template <typename V, int MR, int NV, int KU>
MRT_INLINE void one_tile(const TileCall& g, const float* const* a, float* c, const float* residual,
                         const char** fetch) {
  V acc[KU][MR][NV];
#pragma GCC unroll 16
  for (int u = 0; u < KU; ++u)
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) acc[u][i][j] = V::zero();

  if (MR > 2 && g.taps * g.kc >= 64) {  // long enough for the rows of C to arrive
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) __builtin_prefetch(c + i * g.ldc, 1);
  }
  const float* w = g.w;
  const char* next = *fetch;
  const int64_t ldw = g.ldw, fetch_step = g.fetch_step;
  for (int64_t tap = g.taps; tap > 0; --tap, a += MR) {
    const float* row[MR];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) row[i] = a[i] + g.a_offset;
    const auto step = [&](int64_t k, V(&sum)[MR][NV]) __attribute__((always_inline)) {
      V b[NV];
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) b[j] = V::load(w + j * V::width);
      if (MR > 2) {  // a tile of few rows has no time for it
        __builtin_prefetch(next);
        next += fetch_step;
      }
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const V x = V::set(row[i][k]);
#pragma GCC unroll 16
        for (int j = 0; j < NV; ++j) sum[i][j] = fma(x, b[j], sum[i][j]);
      }
      w += ldw;
    };
    int64_t k = 0;
    if constexpr (kMultipliesByLane<V>) {
      const int64_t whole = g.kc - V::width;
      for (; k <= whole; k += V::width) {
        if (MR > 2) {  // one line for all of them: a tile's share of four rows is seldom more
          __builtin_prefetch(next);
          next += V::width * fetch_step;
        }
        add_lanes<V, MR, NV, KU>(row, k, w, ldw, acc);
        w += V::width * ldw;
      }
    } else {
      for (; k + KU <= g.kc; k += KU) {
#pragma GCC unroll 16
        for (int u = 0; u < KU; ++u) step(k + u, acc[u]);
      }
    }
    if (KU > 1 || kMultipliesByLane<V>) {
      for (; k < g.kc; ++k) step(k, acc[0]);
    }
  }
  *fetch = next;
#pragma GCC unroll 16
  for (int u = 1; u < KU; ++u)
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) acc[0][i][j] = acc[0][i][j] + acc[u][i][j];
  if (g.n == NV * V::width) {
    finish_tile<V, MR, NV, true>(g, c, residual, acc[0]);
  } else {
    alignas(64) float sums[MR][NV * V::width];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
      for (int j = 0; j < NV; ++j) acc[0][i][j].store(sums[i] + j * V::width);
    finish_partial<V, NV>(g, c, residual, sums[0], MR);
  }
}

template <typename V, int MR, int NV, int KU>
MRT_INLINE void all_tiles(const TileCall& g) {
  const float* const* a = g.a;
  const float* residual = g.residual;
  const char* fetch = g.fetch;
  float* c = g.c;
  for (int64_t t = g.tiles; t > 0; --t) {
    one_tile<V, MR, NV, KU>(g, a, c, residual, &fetch);
    a += g.tile_pointers;
    c += MR * g.ldc;
    if (residual) residual += MR * g.ldr;
  }
}

// Half a panel where that is enough.
template <typename V, int MR, int KU, int KUHalf>
void tile(const TileCall& g) {
  constexpr int full = kPanel / V::width;
  if constexpr (full > 1) {
    if (g.n <= kPanel / 2) return all_tiles<V, MR, full / 2, KUHalf>(g);
  }
  all_tiles<V, MR, full, KU>(g);
}

}  // namespace
}  // namespace mrt
