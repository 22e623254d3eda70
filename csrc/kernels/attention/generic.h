// One tile of attention: two products of a few rows with packed panels, and the exponential between them.
//
// Online softmax over tiles: M. Milakov and N. Gimelshein, arXiv:1805.02867; as tiles of attention: T. Dao et al.,
// FlashAttention, arXiv:2205.14135. A row that has seen nothing but -inf keeps the maximum -inf and is shifted by 0.
#pragma once

#include "kernels/attention/attention_kernels.h"
#include "simd/math.h"
#include "simd/panel.h"
#include "simd/transpose8x8.h"

namespace mrt {
namespace {

// e^x for x <= 0 and NaN: 2^(n + f) with f = x log2(e) - n from one fused operation; relative error 1.5e-7 near 0,
// growing by 2e-8 |x|. 0 from -88 on.
template <typename V>
MRT_INLINE V exp_of_shifted(V x) {
  const V log2e = V::set(1.44269504f), magic = V::set(kRoundMagic);
  x = max(V::set(-88.2f), x);
  const V z = fma(x, log2e, magic);
  const V f = fma(x, log2e, magic - z);
  V q = V::set(1.340716656e-3f);
  q = fma(q, f, V::set(9.671897129e-3f));
  q = fma(q, f, V::set(5.550308702e-2f));
  q = fma(q, f, V::set(2.402223424e-1f));
  q = fma(q, f, V::set(6.931472147e-1f));
  return fma(q, f, V::set(1.0f)) * pow2_of_rounded(z);
}

// Adds the mask and hides what the row may not see; keys16 is a multiple of 16. Returns the row's maximum.
template <typename V>
MRT_INLINE float mask_row(float* s, int64_t keys16, int64_t limit, const float* mask, int64_t mask_stride) {
  constexpr int w = V::width;
  if (mask != nullptr && mask_stride == 0) {
    const V add = V::set(*mask);
    for (int64_t n = 0; n < keys16; n += w) (V::load(s + n) + add).store(s + n);
  } else if (mask != nullptr) {
    int64_t n = 0;
    for (; n + w <= limit; n += w) (V::load(s + n) + V::load(mask + n)).store(s + n);
    for (; n < limit; ++n) s[n] += mask[n];
  }
  for (int64_t n = limit; n < keys16; ++n) s[n] = -__builtin_inff();
  V m0 = V::set(-__builtin_inff()), m1 = m0;
  int64_t n = 0;
  for (; n + 2 * w <= keys16; n += 2 * w) {  // a NaN is left to the exponential
    m0 = max(V::load(s + n), m0);
    m1 = max(V::load(s + n + w), m1);
  }
  if (n < keys16) m0 = max(V::load(s + n), m0);
  return reduce_max(max(m0, m1));
}

// s = exp(s - shift); returns the sum.
template <typename V>
MRT_INLINE float exp_row(float* s, int64_t keys16, float shift) {
  constexpr int w = V::width;
  const V m = V::set(shift);
  V a = V::zero(), b = a;
  int64_t n = 0;
  for (; n + 2 * w <= keys16; n += 2 * w) {
    const V e0 = exp_of_shifted(V::load(s + n) - m), e1 = exp_of_shifted(V::load(s + n + w) - m);
    e0.store(s + n);
    e1.store(s + n + w);
    a = a + e0;
    b = b + e1;
  }
  if (n < keys16) {
    const V e0 = exp_of_shifted(V::load(s + n) - m);
    e0.store(s + n);
    a = a + e0;
  }
  return reduce_add(a + b);
}

// Keys and values as they are in memory: for few queries packing would cost more than it saves.

constexpr int kDotRows = 3;  // so many rows are multiplied one by one; more of them side by side in a register

template <typename V>
struct Narrow {  // eight lanes where there are more: eight queries fill them, and a sum over them is cheaper
  using type = F32x4;
};
#if defined(__aarch64__)
template <>
struct Narrow<F32x4n> {
  using type = F32x4n;
};
#endif
#if defined(MRT_SIMD_AVX2)
template <>
struct Narrow<F32x8> {
  using type = F32x8;
};
#endif
#if defined(MRT_SIMD_AVX512)
template <>
struct Narrow<F32x16> {
  using type = F32x8;
};
#endif

// to[c][r] = from[r][c], w rows and columns.
template <typename L>
MRT_INLINE void transpose_square(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  if constexpr (L::width == 8) {
#if defined(MRT_SIMD_AVX2)
    transpose8x8(from, from_stride, to, to_stride);
#endif
  } else if constexpr (kMultipliesByLane<L>) {
#if defined(__aarch64__)
    transpose4x4(from, from_stride, to, to_stride);
#endif
  } else {
    for (int r = 0; r < L::width; ++r) {
      for (int c = 0; c < L::width; ++c) to[c * to_stride + r] = from[r * from_stride + c];
    }
  }
}

// The queries as [d][w]; zeros where there is no row.
template <typename L>
MRT_INLINE void queries_side_by_side(const AttentionTile& t) {
  constexpr int w = L::width;
  int64_t i = 0;
  if (t.rows == w) {
    for (; i + w <= t.d; i += w) transpose_square<L>(t.q + i, t.q_stride, t.columns + i * w, w);
  }
  for (; i < t.d; ++i) {
    for (int r = 0; r < w; ++r) t.columns[i * w + r] = r < t.rows ? t.q[r * t.q_stride + i] : 0.0f;
  }
}

// s[r][n] = q[r] . k[n]: w keys at a time, each number of which is multiplied with all queries.
template <typename L>
MRT_INLINE void scores_side_by_side(const AttentionTile& t, int64_t keys, int64_t lds) {
  constexpr int w = L::width;
  queries_side_by_side<L>(t);
  const L scale = L::set(t.scale);
  for (int64_t n = 0; n < keys; n += w) {
    const float* k[w];
    L acc[w];
#pragma GCC unroll 8
    for (int j = 0; j < w; ++j) {
      k[j] = t.k + (n + j < keys ? n + j : keys - 1) * t.k_stride;
      acc[j] = L::zero();
    }
    if (n + 2 * w <= keys) {
      for (int j = 0; j < w; ++j) {
        for (int64_t i = 0; i < t.d; i += 16) __builtin_prefetch(k[j] + w * t.k_stride + i);
      }
    }
    for (int64_t i = 0; i < t.d; ++i) {
      const L q = L::load(t.columns + i * w);
#pragma GCC unroll 8
      for (int j = 0; j < w; ++j) acc[j] = fma(q, L::set(k[j][i]), acc[j]);
    }
    alignas(64) float block[w * w];
#pragma GCC unroll 8
    for (int j = 0; j < w; ++j) (acc[j] * scale).store(block + j * w);
    transpose_square<L>(block, w, t.s + n, lds);
  }
}

// The same for one row after the other.
template <typename V>
MRT_INLINE void scores_by_rows(const AttentionTile& t, int64_t keys, int64_t lds) {
  constexpr int w = V::width;
  for (int r = 0; r < t.rows; ++r) {
    const float* q = t.q + r * t.q_stride;
    for (int64_t n = 0; n < keys; ++n) {
      const float* k = t.k + n * t.k_stride;
      V a = V::zero(), b = a;
      int64_t i = 0;
      for (; i + 2 * w <= t.d; i += 2 * w) {
        a = fma(V::load(q + i), V::load(k + i), a);
        b = fma(V::load(q + i + w), V::load(k + i + w), b);
      }
      for (; i < t.d; i += w) {
        const int64_t lanes = t.d - i < w ? t.d - i : w;
        a = fma(V::load(q + i, lanes), V::load(k + i, lanes), a);
      }
      t.s[r * lds + n] = reduce_add(a + b) * t.scale;
    }
  }
}

// o[r] = o[r] * alpha[r] + sum over n of p[r][n] v[n] of R rows and N vectors of columns from `column` on.
template <typename V, int R, int N, bool kWhole>
MRT_INLINE void values_block(const AttentionTile& t, const float* p, int64_t keys, int64_t lds, int64_t column,
                             float* o, int64_t dv16, const float* alpha) {
  constexpr int w = V::width;
  V acc[R][N];
#pragma GCC unroll 8
  for (int i = 0; i < R * N; ++i) acc[i / N][i % N] = V::zero();
  const float* v = t.v + column;
  for (int64_t n = 0; n < keys; ++n, v += t.v_stride) {
    V x[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      const int64_t left = t.dv - column - j * w;
      x[j] = kWhole ? V::load(v + j * w) : left > 0 ? V::load(v + j * w, left < w ? left : w) : V::zero();
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const V weight = V::set(p[r * lds + n]);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) acc[r][j] = fma(weight, x[j], acc[r][j]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      if (!kWhole && column + j * w >= dv16) break;
      float* const to = o + r * dv16 + column + j * w;
      if (alpha != nullptr) acc[r][j] = fma(V::load(to), V::set(alpha[r]), acc[r][j]);
      acc[r][j].store(to);
    }
  }
}

template <typename V, int R>
void values_rows(const AttentionTile& t, const float* p, int64_t keys, int64_t lds, float* o, int64_t dv16,
                 const float* alpha) {
  constexpr int vectors = V::width == 16 ? 4 : R == 1 ? 8 : R == 2 ? 4 : 2, columns = vectors * V::width;
  for (int64_t i = 0; i < t.dv; i += columns) {
    if (i + columns <= t.dv) {
      values_block<V, R, vectors, true>(t, p, keys, lds, i, o, dv16, alpha);
    } else {
      values_block<V, R, vectors, false>(t, p, keys, lds, i, o, dv16, alpha);
    }
  }
}

template <typename V>
MRT_INLINE void values_direct(const AttentionTile& t, int64_t keys, int64_t lds, int64_t dv16, const float* alpha) {
  for (int r = 0, step; r < t.rows; r += step) {
    step = next_rows(t.rows - r, 4);
    const float *const p = t.s + r * lds, *const a = alpha == nullptr ? nullptr : alpha + r;
    float* const o = t.o + r * dv16;
    if (step == 1) values_rows<V, 1>(t, p, keys, lds, o, dv16, a);
    if (step == 2) values_rows<V, 2>(t, p, keys, lds, o, dv16, a);
    if (step == 3) values_rows<V, 3>(t, p, keys, lds, o, dv16, a);
    if (step == 4) values_rows<V, 4>(t, p, keys, lds, o, dv16, a);
  }
}

// A row without any visible key has the sum 0: 0 * (1 / 0) is NaN, as the softmax of nothing but -inf.
template <typename V>
void attention_finish(const float* o, float sum, bool safe, float* y, int64_t dv) {
  constexpr int w = V::width;
  const V factor = V::set(safe && sum == 0.0f ? 0.0f : 1.0f / sum);
  int64_t i = 0;
  for (; i + w <= dv; i += w) (V::load(o + i) * factor).store(y + i);
  if (i < dv) (V::load(o + i, dv - i) * factor).store(y + i, dv - i);
}

template <typename V>
void attention_tile(const AttentionTile& t) {
  int64_t keys = 0;  // beyond the last row's limit there is nothing to do
  for (int r = 0; r < t.rows; ++r) keys = t.limit[r] > keys ? t.limit[r] : keys;
  const int64_t keys16 = (keys + 15) / 16 * 16, dv16 = (t.dv + 15) / 16 * 16;
  if (t.packed) {
    for (int64_t n = 0; n < keys16; n += kPanelWidth) {
      panel_rows<V>(t.rows, t.q, t.q_stride, t.k + n * t.d, t.d, nullptr, t.s + n, keys16);
    }
  } else if (t.rows > kDotRows) {
    scores_side_by_side<typename Narrow<V>::type>(t, keys, keys16);
  } else {
    scores_by_rows<typename Narrow<V>::type>(t, keys, keys16);
  }
  // The maxima of all rows first: their reductions are chains that would hold up a row's exponentials.
  float alpha[kMaxAttentionRows], shift[kMaxAttentionRows];
  for (int r = 0; r < t.rows; ++r) {
    const float now = mask_row<V>(t.s + r * keys16, keys16, t.limit[r], t.mask[r], t.mask_stride);
    const float m = now > t.max[r] ? now : t.max[r];
    shift[r] = m > -__builtin_inff() ? m : 0.0f;
    alpha[r] = t.first ? 0.0f : exp_of_shifted(F32x1::set(t.max[r] - shift[r])).v;
    t.max[r] = m;
  }
  for (int r = 0; r < t.rows; ++r) {
    t.sum[r] = t.sum[r] * alpha[r] + exp_row<V>(t.s + r * keys16, keys16, shift[r]);
  }
  const float* scale = t.first ? nullptr : alpha;
  if (t.packed) {
    for (int64_t i = 0; i < dv16; i += kPanelWidth) {
      panel_rows<V>(t.rows, t.s, keys16, t.v + i * t.keys, keys, scale, t.o + i, dv16);
    }
  } else {
    values_direct<V>(t, keys, keys16, dv16, scale);
  }
  for (int r = 0; r < t.rows; ++r) {
    if (t.y[r] != nullptr) attention_finish<V>(t.o + r * dv16, t.sum[r], t.safe, t.y[r], t.dv);
  }
}

// [keys][dv] -> [dv / 16][keys][16]
template <typename V>
void attention_pack_v(const float* v, int64_t stride, int64_t keys, int64_t dv, float* out) {
  constexpr int w = V::width;
  for (int64_t i = 0; i < dv; i += kPanelWidth, out += keys * kPanelWidth) {
    for (int64_t n = 0; n < keys; ++n) {
      for (int64_t j = 0; j < kPanelWidth; j += w) {
        const int64_t left = dv - i - j;
        const V x = left >= w  ? V::load(v + n * stride + i + j)
                    : left > 0 ? V::load(v + n * stride + i + j, left)
                               : V::zero();
        x.store(out + n * kPanelWidth + j);
      }
    }
  }
}

// Keys [n, n + count) of a panel, columns from `begin`, one by one; lanes without a key are zero.
MRT_INLINE void pack_k_edge(const float* k, int64_t stride, int64_t count, int64_t begin, int64_t d, float scale,
                            float* panel) {
  for (int64_t i = begin; i < d; ++i) {
    for (int64_t n = 0; n < kPanelWidth; ++n) panel[i * kPanelWidth + n] = n < count ? k[n * stride + i] * scale : 0.0f;
  }
}

}  // namespace
}  // namespace mrt
