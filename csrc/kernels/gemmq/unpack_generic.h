// The loops of unpack.h, once for all vectors. V::bytes gives as many integers as V has lanes.
#pragma once

#include "kernels/gemm/tile_generic.h"
#include "kernels/gemmq/group.h"

namespace mrt {
namespace {

// Calls f(group, first row, behind the last row) for each group that the stretch touches.
template <typename V, typename F>
MRT_INLINE void each_group(const UnpackCall& c, float bias, F&& f) {
  const int64_t end = c.row + c.rows, first = c.row / c.group;
  int64_t next = first * c.group, at = first * c.step;
  for (int64_t k = c.row; k < end; k = next, at += c.step) {
    next += c.group;
    const Group<V> group(c, at, bias);
    f(group, k, next < end ? next : end);
  }
}

template <typename V>
void unpack_s8(const UnpackCall& c) {
  using Int = typename V::Int;
  float* out = c.out;
  each_group<V>(c, 0.0f, [&](const Group<V>& g, int64_t begin, int64_t end) {
    const uint8_t* w = c.w + begin * kPanel;
    for (int64_t k = begin; k < end; ++k, w += kPanel, out += kPanel) {
      for (int i = 0; i < Group<V>::kVectors; ++i) g.store(i, widen_s8(w + i * V::width, Int{}), out);
    }
  });
}

template <typename V>
void unpack_s4(const UnpackCall& c) {
  using Int = typename V::Int;
  float* out = c.out;
  const Int mask = Int::set(15);
  each_group<V>(c, 8.0f, [&](const Group<V>& g, int64_t begin, int64_t end) {
    const uint8_t* w = c.w + begin / 2 * kPanel;
    int64_t k = begin;
    if (k % 2 != 0) {
      for (int i = 0; i < Group<V>::kVectors; ++i) {
        g.store(i, widen_u8(w + i * V::width, Int{}).template shr<4>(), out);
      }
      k += 1, w += kPanel, out += kPanel;
    }
    for (; k + 2 <= end; k += 2, w += kPanel, out += 2 * kPanel) {
      for (int i = 0; i < Group<V>::kVectors; ++i) {
        const Int both = widen_u8(w + i * V::width, Int{});
        g.store(i, both & mask, out);
        g.store(i, both.template shr<4>(), out + kPanel);
      }
    }
    if (k < end) {
      for (int i = 0; i < Group<V>::kVectors; ++i) g.store(i, widen_u8(w + i * V::width, Int{}) & mask, out);
      out += kPanel;
    }
  });
}

// ---- a tile of weights as they are

// Its sums, as TileCall says.
template <typename V, int R, int NV>
MRT_INLINE void finish_sums(const TileCall& g, const V (&sum)[R][NV], int rows) {
  alignas(64) float sums[R][NV * V::width];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int i = 0; i < NV; ++i) sum[r][i].store(sums[r] + i * V::width);
  finish_partial<V, NV>(g, g.c, g.residual, sums[0], rows);
}

// Rows of A, of which there may be fewer: the last one again then.
template <int R>
MRT_INLINE void rows_of_a(const TileCall& g, int rows, const float* (&x)[R]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    x[r] = g.a[r < rows ? r : rows - 1] + g.a_offset;
    if (r < rows) __builtin_prefetch(g.c + r * g.ldc, 1);
  }
}

template <typename V, int R, int NV>
MRT_INLINE void zeros(V (&v)[R][NV]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int i = 0; i < NV; ++i) v[r][i] = V::zero();
}

template <typename V, int R, int NV>
MRT_INLINE void add_row(const float* const (&x)[R], int64_t k, const V (&w)[NV], V (&sum)[R][NV]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const V a = V::set(x[r][k]);
#pragma GCC unroll 16
    for (int i = 0; i < NV; ++i) sum[r][i] = fma(a, w[i], sum[r][i]);
  }
}

// A few rows of weights are stored as floats, then multiplied, while the next ones are decoded: that leaves the
// registers to the sums. So all floats are left, and each sum is that of gemm_f32.
template <typename V, int R>
void storing_tile(const DecodedTile& c, const TileCall& g, int rows) {
  using Int = typename V::Int;
  constexpr int64_t kAtOnce = 8;  // of which the bytes are a line of the cache
  constexpr int kVectors = Group<V>::kVectors;
  const Int mask = Int::set(15);
  const float* x[R];
  rows_of_a<R>(g, rows, x);
  V sum[R][kVectors];
  zeros(sum);
  float* out = c.out;
  int64_t at = 0;
  each_group<V>(c, 8.0f, [&](const Group<V>& group, int64_t begin, int64_t end) __attribute__((always_inline)) {
    const uint8_t* w = c.w + begin / 2 * kPanel;
    for (const int64_t stop = at + end - begin; at < stop;) {
      __builtin_prefetch(w + c.next);
      const float* from = out;
      const int64_t next = at + kAtOnce < stop ? at + kAtOnce : stop;
      for (int64_t k = at; k < next; k += 2, w += kPanel, out += 2 * kPanel) {
#pragma GCC unroll 16
        for (int i = 0; i < kVectors; ++i) {
          const Int both = widen_u8(w + i * V::width, Int{});
          group.store(i, both & mask, out);
          group.store(i, both.template shr<4>(), out + kPanel);
        }
      }
#pragma GCC unroll 1
      for (; at < next; ++at, from += kPanel) {
        V row[kVectors];
        load_row<V, kVectors, true>(from, kPanel, row);
        add_row<V, R, kVectors>(x, at, row, sum);
      }
    }
  });
  finish_sums<V, R, kVectors>(g, sum, rows);
}

// Two panels at a time, each a vector. The weights go from registers into sums of a group, of which there are enough to
// multiply by scales once a group; the totals wait in memory meanwhile. Sums have the same order whatever the rows.
template <typename V, int R>
void grouped_tile(const DecodedTile& c, const TileCall& g, int rows) {
  using Int = typename V::Int;
  constexpr int64_t kLine = 64;
  const Int mask = Int::set(15);
  const float* x[R];
  rows_of_a<R>(g, rows, x);
  V total[R][2];
  zeros(total);
  const uint8_t* w = c.w + c.row / 2 * kPanel;
  const float* factors = c.out;
  const int64_t end = c.row + c.rows;
  int64_t next = c.row / c.group * c.group;
  for (int64_t at = 0; at < c.rows; factors += kGroupFactors) {
    next += c.group;
    const int64_t stop = (next < end ? next : end) - c.row;
    if (c.next > 0) {
      for (const uint8_t* p = w + c.next; p < w + c.next + (stop - at) / 2 * kPanel; p += kLine) {
        __builtin_prefetch(p);
        __builtin_prefetch(p + c.panel_apart);
      }
    }
    const V zero[2] = {V::load(factors + kPanel), V::load(factors + c.factors_apart + kPanel)};
    V sum[R][2];
    zeros(sum);
    for (; at < stop; at += 2, w += kPanel) {
      const Int both[2] = {widen_u8(w, Int{}), widen_u8(w + c.panel_apart, Int{})};
      const V even[2] = {V::from_int(both[0] & mask) - zero[0], V::from_int(both[1] & mask) - zero[1]};
      const V odd[2] = {V::from_int(both[0].template shr<4>()) - zero[0],
                        V::from_int(both[1].template shr<4>()) - zero[1]};
      add_row<V, R, 2>(x, at, even, sum);
      add_row<V, R, 2>(x, at + 1, odd, sum);
    }
    const V scale[2] = {V::load(factors), V::load(factors + c.factors_apart)};
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < 2; ++i) total[r][i] = fma(sum[r][i], scale[i], total[r][i]);
  }
  finish_sums<V, R, 2>(g, total, rows);
}

template <typename V>
void factors(const UnpackCall& c) {
  float* out = c.out;
  each_group<V>(c, 8.0f, [&](const Group<V>& group, int64_t, int64_t) {
    group.scale[0].store(out);
    group.zero[0].store(out + kPanel);
    out += kGroupFactors;
  });
}

// ---- few rows: the weights go from registers into the sums

// The number in row u (of two a byte row, at `w`) of eight or four bits, `bias` more where that is said.
template <int bits, typename Int>
MRT_INLINE Int number(const uint8_t* w, int64_t u) {
  if constexpr (bits == 8) return widen_s8(w + u * kPanel, Int{});
  const Int both = widen_u8(w + u / 2 * kPanel, Int{});
  return u % 2 != 0 ? both.template shr<4>() : both & Int::set(15);
}

// R rows of A, or fewer, the last one again then; U rows of weights at a time, each with sums of their own, so that no
// sum waits for another.
template <typename V, int bits, int R, int U>
void few_rows(const RowsCall& c) {
  constexpr int kVectors = Group<V>::kVectors;
  const float* x[R];
  for (int64_t r = 0; r < R; ++r) x[r] = c.a + (r < c.rows_of_a ? r : c.rows_of_a - 1) * c.lda;
  V sum[U][R][kVectors];
  for (int u = 0; u < U; ++u) {
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < kVectors; ++i) sum[u][r][i] = V::zero();
    }
  }
  each_group<V>(c, bits == 8 ? 0.0f : 8.0f, [&](const Group<V>& g, int64_t begin, int64_t end) {
    const auto step = [&](const uint8_t* w, int64_t row, int64_t k, int u) {
      for (int i = 0; i < kVectors; ++i) {
        const V weight = (V::from_int(number<bits, typename V::Int>(w + i * V::width, row)) - g.zero[i]) * g.scale[i];
        for (int r = 0; r < R; ++r) sum[u][r][i] = fma(V::set(x[r][k]), weight, sum[u][r][i]);
      }
    };
    constexpr int64_t each = 8 / bits;  // rows a byte row
    constexpr int64_t at_once = U > each ? U : each;
    int64_t k = begin;
    for (; k < end && k % each != 0; ++k) step(c.w + k / each * kPanel, k % each, k, 0);
    for (; k + at_once <= end; k += at_once) {
      const uint8_t* const w = c.w + k / each * kPanel;
      for (int u = 0; u < at_once; ++u) step(w, u, k + u, u % U);
    }
    for (; k < end; ++k) step(c.w + k / each * kPanel, k % each, k, 0);
  });
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < kVectors; ++i) {
      V total = sum[0][r][i];
      for (int u = 1; u < U; ++u) total = total + sum[u][r][i];
      total.store(c.out + r * kPanel + i * V::width);
    }
  }
}

// As many as leave registers for the weights: 8 sums at a time.
template <typename V, int R>
constexpr int together() {
  const int u = 8 / (R * Group<V>::kVectors);
  return u >= 4 ? 4 : u >= 2 ? 2 : 1;
}

template <typename V, int bits, bool four>
constexpr void fill_few(void (*(&few)[kMaxFewRows + 1])(const RowsCall&)) {
  few[1] = few_rows<V, bits, 1, together<V, 1>()>;
  few[2] = few_rows<V, bits, 2, together<V, 2>()>;
  if constexpr (four) few[3] = few[4] = few_rows<V, bits, 4, together<V, 4>()>;
}

template <typename V>
constexpr UnpackTable unpack_table() {
  UnpackTable t{unpack_s8<V>, unpack_s4<V>, {}, nullptr, {}, {}};
  fill_few<V, 8, true>(t.few_s8);
  if constexpr (V::width == 16) {
    fill_few<V, 4, false>(t.few_s4);
    t.factors = factors<V>;
    for (int rows = 1; rows <= 8; ++rows) {
      t.tile_s4[rows] = rows <= 4 ? grouped_tile<V, 4> : rows <= 6 ? grouped_tile<V, 6> : grouped_tile<V, 8>;
    }
  } else {
    fill_few<V, 4, true>(t.few_s4);
    if constexpr (V::width == 8) {
      t.tile_s4[4] = storing_tile<V, 4>;
      t.tile_s4[5] = t.tile_s4[6] = storing_tile<V, 6>;
    }
  }
  return t;
}

}  // namespace
}  // namespace mrt
