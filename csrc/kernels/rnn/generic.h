// Recurrent cells: the products with packed panels, and the gates, a vector of units at a time.
#pragma once

#include "kernels/rnn/rnn_kernels.h"
#include "simd/math.h"
#include "simd/panel.h"

namespace mrt {
namespace {

template <typename V>
void rnn_product(const float* a, int64_t lda, int64_t rows, int64_t k, const float* panels, int64_t count, float* c,
                 int64_t ldc) {
  const float ones[6] = {1, 1, 1, 1, 1, 1};
  const int64_t stride = k * kPanelWidth;
  int64_t p = 0;
  if (rows == 1) {
    constexpr int some = V::width / 2;  // four panels of eight lanes, two of four
    for (; p + some <= count; p += some)
      row_times_panels<V, some>(a, panels + p * stride, stride, k, c + p * kPanelWidth);
  }
  for (; p < count; ++p) {
    int step;
    for (int64_t r = 0; r < rows; r += step) {
      step = next_rows(rows - r, PanelRows<V>::value);
      panel_rows<V>(step, a + r * lda, lda, panels + p * stride, k, ones, c + r * ldc + p * kPanelWidth, ldc);
    }
  }
}

// Runs body(j, n) over units j, n of them at once; n < width only at the end.
template <typename V, typename F>
MRT_INLINE void for_units(int64_t hidden, F&& body) {
  int64_t j = 0;
  for (; j + V::width <= hidden; j += V::width) body(j, static_cast<int64_t>(V::width));
  if (j < hidden) body(j, hidden - j);
}

template <typename V>
MRT_INLINE V load_units(const float* p, int64_t n) {
  return n == V::width ? V::load(p) : V::load(p, n);
}
template <typename V>
MRT_INLINE void store_units(V x, float* p, int64_t n) {
  if (n == V::width) {
    x.store(p);
  } else {
    x.store(p, n);
  }
}

template <typename V>
void lstm_cell(const LstmCell& cell) {
  for_units<V>(cell.hidden, [&](int64_t j, int64_t n) __attribute__((always_inline)) {
    const V i = sigmoid(load_units<V>(cell.pre + cell.at[0] + j, n));
    const V f = sigmoid(load_units<V>(cell.pre + cell.at[1] + j, n));
    const V g = tanh(load_units<V>(cell.pre + cell.at[2] + j, n));
    const V o = sigmoid(load_units<V>(cell.pre + cell.at[3] + j, n));
    const V c = fma(f, load_units<V>(cell.c + j, n), i * g);
    store_units(c, cell.c + j, n);
    store_units(o * tanh(c), cell.h + j, n);
  });
}

// In the vector types themselves: through memory, what is stored in halves and loaded as a whole would wait for it.
MRT_INLINE I32x4 times(I32x4 a, uint32_t b) { return {(i32x4_t)((u32x4_t)a.v * b)}; }
#if defined(__aarch64__)
MRT_INLINE I32x4n times(I32x4n a, uint32_t b) { return {vmulq_n_s32(a.v, static_cast<int32_t>(b))}; }
#endif
#if defined(MRT_SIMD_AVX2)
MRT_INLINE I32x8 times(I32x8 a, uint32_t b) {
  return {_mm256_mullo_epi32(a.v, _mm256_set1_epi32(static_cast<int32_t>(b)))};
}
#endif
#if defined(MRT_SIMD_AVX512)
MRT_INLINE I32x16 times(I32x16 a, uint32_t b) {
  return {_mm512_mullo_epi32(a.v, _mm512_set1_epi32(static_cast<int32_t>(b)))};
}
#endif
template <typename I>
MRT_INLINE I load_ints(const void* p) {
  I r;
  std::memcpy(&r.v, p, sizeof(r.v));
  return r;
}

template <typename V>
void add_sums(const RnnSums& s) {
  using I = typename V::Int;
  constexpr int NV = kRnnPanel / V::width;
  for (int64_t p = 0; p < s.panels; ++p) {
    const char* const weight_sums = s.packed + p * s.panel_bytes;
    I offset[NV], zeros[NV];
    V scale[NV];
    for (int j = 0; j < NV; ++j) {
      const int64_t at = p * kRnnPanel + j * V::width;
      offset[j] = times(load_ints<I>(weight_sums + j * sizeof(I)), s.a_zero);
      zeros[j] = load_ints<I>(s.zeros + at);
      scale[j] = V::load(s.scale + at) * V::set(s.a_scale);
    }
    for (int64_t i = 0; i < s.rows; ++i) {
      const int32_t* const acc = s.acc + (p * s.rows + i) * kRnnPanel;
      float* const c = s.c + i * s.ldc + p * kRnnPanel;
      const uint32_t row = s.row_sums == nullptr ? 0 : static_cast<uint32_t>(s.row_sums[i]);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        I sum = load_ints<I>(acc + j * V::width) - offset[j];
        if (s.row_sums != nullptr) sum = sum - times(zeros[j], row);
        (V::load(c + j * V::width) + V::from_int(sum) * scale[j]).store(c + j * V::width);
      }
    }
  }
}

template <typename V>
void gru_cell(const GruCell& cell) {
  for_units<V>(cell.hidden, [&](int64_t j, int64_t n) __attribute__((always_inline)) {
    const auto pre = [&](int g) __attribute__((always_inline)) { return load_units<V>(cell.pre + cell.at[g] + j, n); };
    const auto rec = [&](int g) __attribute__((always_inline)) { return load_units<V>(cell.rec + cell.at[g] + j, n); };
    const V z = sigmoid(pre(0) + rec(0));
    V hidden_part = load_units<V>(cell.rec_h + cell.at[2] + j, n);
    if (cell.reset_after) hidden_part = sigmoid(pre(1) + rec(1)) * hidden_part;
    const V candidate = tanh(pre(2) + hidden_part);
    const V h = load_units<V>(cell.h + j, n);
    store_units(fma(z, h - candidate, candidate), cell.h + j, n);
  });
}

template <typename V>
void gru_reset(const GruCell& cell, float* out) {
  for_units<V>(cell.hidden, [&](int64_t j, int64_t n) __attribute__((always_inline)) {
    const V r = sigmoid(load_units<V>(cell.pre + cell.at[1] + j, n) + load_units<V>(cell.rec + cell.at[1] + j, n));
    store_units(r * load_units<V>(cell.h + j, n), out + j, n);
  });
}

}  // namespace
}  // namespace mrt
