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

void add_sums(const RnnSums& s) {
  for (int64_t p = 0; p < s.panels; ++p) {
    uint32_t offset[kRnnPanel], zeros[kRnnPanel];
    float scale[kRnnPanel];
    std::memcpy(offset, s.packed + p * s.panel_bytes, sizeof(offset));
    for (int j = 0; j < kRnnPanel; ++j) {
      offset[j] *= s.a_zero;
      scale[j] = s.scale[p * kRnnPanel + j] * s.a_scale;
      zeros[j] = s.row_sums == nullptr ? 0 : static_cast<uint32_t>(s.zeros[p * kRnnPanel + j]);
    }
    for (int64_t i = 0; i < s.rows; ++i) {
      const uint32_t row = s.row_sums == nullptr ? 0 : static_cast<uint32_t>(s.row_sums[i]);
      uint32_t acc[kRnnPanel];
      float c[kRnnPanel];
      float* const to = s.c + i * s.ldc + p * kRnnPanel;
      std::memcpy(acc, s.acc + (p * s.rows + i) * kRnnPanel, sizeof(acc));
      std::memcpy(c, to, sizeof(c));
      for (int j = 0; j < kRnnPanel; ++j) {
        c[j] += static_cast<float>(static_cast<int32_t>(acc[j] - offset[j] - row * zeros[j])) * scale[j];
      }
      std::memcpy(to, c, sizeof(c));
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
