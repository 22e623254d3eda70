// Pooling of one window, vectorised over channels: four vectors of channels are kept in registers over all taps.
#pragma once

#include <cstring>

#include "kernels/pool/pool_kernels.h"
#include "simd/vec.h"

namespace mrt {
namespace {

template <typename V>
struct MaxOf {
  static MRT_INLINE V start() { return V::set(-__builtin_inff()); }
  // max(a, x) is x where either is NaN; a NaN that came before is kept as well.
  static MRT_INLINE V add(V a, V x) { return is_nan_or(a, max(a, x)); }
};

template <typename V>
struct SumOf {
  static MRT_INLINE V start() { return V::zero(); }
  static MRT_INLINE V add(V a, V x) { return a + x; }
};

// Channels [i, i + n * width), the last vector of `lanes` lanes.
template <typename V, typename Op, int n>
MRT_INLINE void pool_channels(const PoolWindow& w, int64_t i, int64_t lanes, V factor, bool scale) {
  constexpr int width = V::width;
  V acc[n];
  for (int j = 0; j < n; ++j) acc[j] = Op::start();
  for (int64_t r = 0; r < w.rows; ++r) {
    const float* x = w.x + r * w.row_stride + i;
    V row[n];  // sums of rows are added up, so that the error grows with rows + cols and not with their product
    for (int j = 0; j < n; ++j) row[j] = Op::start();
    for (int64_t k = 0; k < w.cols; ++k, x += w.col_stride) {
      for (int j = 0; j + 1 < n; ++j) row[j] = Op::add(row[j], V::load(x + j * width));
      row[n - 1] =
          Op::add(row[n - 1], lanes == width ? V::load(x + (n - 1) * width) : V::load(x + (n - 1) * width, lanes));
    }
    for (int j = 0; j < n; ++j) acc[j] = Op::add(acc[j], row[j]);
  }
  for (int j = 0; j < n; ++j) {
    const V y = scale ? acc[j] / factor : acc[j];
    if (j + 1 < n || lanes == width) {
      y.store(w.y + i + j * width);
    } else {
      y.store(w.y + i + j * width, lanes);
    }
  }
}

template <typename V, typename Op>
MRT_INLINE void pool_window(const PoolWindow& w, float divisor, bool scale) {
  constexpr int width = V::width;
  const V factor = V::set(divisor);
  int64_t i = 0;
  for (; i + 4 * width <= w.c; i += 4 * width) pool_channels<V, Op, 4>(w, i, width, factor, scale);
  for (; i + width <= w.c; i += width) pool_channels<V, Op, 1>(w, i, width, factor, scale);
  if (i < w.c) pool_channels<V, Op, 1>(w, i, w.c - i, factor, scale);
}

template <typename V>
void pool_max(const PoolWindow& w) {
  pool_window<V, MaxOf<V>>(w, 1.0f, false);
}

template <typename V>
void pool_sum(const PoolWindow& w, float divisor) {
  pool_window<V, SumOf<V>>(w, divisor, true);
}

// ---- bytes ----

template <int kWidth>
struct Bytes {
  typedef uint8_t Lanes __attribute__((vector_size(kWidth)));
  Lanes v;
  static MRT_INLINE Bytes load(const uint8_t* p, int64_t n = kWidth) {
    Bytes b{};
    std::memcpy(&b.v, p, static_cast<size_t>(n));
    return b;
  }
  MRT_INLINE void store(uint8_t* p, int64_t n = kWidth) const { std::memcpy(p, &v, static_cast<size_t>(n)); }
  MRT_INLINE void raise(const Bytes& x) { v = v > x.v ? v : x.v; }
};

// Channels [i, i + n * width), the last vector of `lanes` lanes.
template <typename B, int n, int kWidth>
MRT_INLINE void max_channels(const PoolWindowOf<uint8_t>& w, int64_t i, int64_t lanes) {
  B acc[n] = {};
  for (int64_t r = 0; r < w.rows; ++r) {
    const uint8_t* x = w.x + r * w.row_stride + i;
    for (int64_t k = 0; k < w.cols; ++k, x += w.col_stride) {
      for (int j = 0; j + 1 < n; ++j) acc[j].raise(B::load(x + j * kWidth));
      const uint8_t* const last = x + (n - 1) * kWidth;
      acc[n - 1].raise(lanes == kWidth ? B::load(last) : B::load(last, lanes));
    }
  }
  if constexpr (n > 1) {  // without optimization gcc warns of what the loop would store of one
    for (int j = 0; j < n - 1; ++j) acc[j].store(w.y + i + j * kWidth);
  }
  acc[n - 1].store(w.y + i + (n - 1) * kWidth, lanes);
}

template <int kWidth>
void pool_max_bytes(const PoolWindowOf<uint8_t>& w) {
  using B = Bytes<kWidth>;
  int64_t i = 0;
  for (; i + 2 * kWidth <= w.c; i += 2 * kWidth) max_channels<B, 2, kWidth>(w, i, kWidth);
  for (; i + kWidth <= w.c; i += kWidth) max_channels<B, 1, kWidth>(w, i, kWidth);
  if (i < w.c) max_channels<B, 1, kWidth>(w, i, w.c - i);
}

}  // namespace
}  // namespace mrt
