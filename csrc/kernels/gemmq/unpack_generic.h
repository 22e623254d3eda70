// The loops of unpack.h, once for all vectors. V::bytes gives as many integers as V has lanes.
#pragma once

#include "kernels/gemmq/group.h"

namespace mrt {
namespace {

// Calls f(group, first row, behind the last row) for each group that the stretch touches.
template <typename V, typename F>
MRT_INLINE void each_group(const UnpackCall& c, float bias, F&& f) {
  const int64_t end = c.row + c.rows;
  for (int64_t k = c.row; k < end;) {
    const int64_t next = (k / c.group + 1) * c.group;
    const int64_t stop = next < end ? next : end;
    const Group<V> group(c, k, bias);
    f(group, k, stop);
    k = stop;
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

// ---- few rows: the weights go from registers into the sums

// The number in row u (of two a byte row, at `w`) of eight or four bits, `bias` more where that is said.
template <int bits, typename Int>
MRT_INLINE Int number(const uint8_t* w, int64_t u) {
  if constexpr (bits == 8) return widen_s8(w + u * kPanel, Int{});
  const Int both = widen_u8(w + u / 2 * kPanel, Int{});
  return u % 2 != 0 ? both.template shr<4>() : both & Int::set(15);
}

// R rows of A; U rows of weights at a time, each with sums of their own, so that no sum waits for another.
template <typename V, int bits, int R, int U>
void few_rows(const RowsCall& c) {
  constexpr int kVectors = Group<V>::kVectors;
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
        for (int r = 0; r < R; ++r) sum[u][r][i] = fma(V::set(c.a[r * c.lda + k]), weight, sum[u][r][i]);
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

template <typename V, int bits>
constexpr void (*kFewRows[kMaxFewRows + 1])(const RowsCall&) = {
    nullptr, few_rows<V, bits, 1, together<V, 1>()>, few_rows<V, bits, 2, together<V, 2>()>,
    few_rows<V, bits, 3, together<V, 3>()>, few_rows<V, bits, 4, together<V, 4>()>};

template <typename V>
constexpr UnpackTable unpack_table() {
  UnpackTable t{unpack_s8<V>, unpack_s4<V>, {}, {}};
  for (int r = 0; r <= kMaxFewRows; ++r) {
    t.few_s8[r] = kFewRows<V, 8>[r];
    t.few_s4[r] = kFewRows<V, 4>[r];
  }
  return t;
}

}  // namespace
}  // namespace mrt
