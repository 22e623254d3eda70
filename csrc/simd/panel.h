// The inner loop of matrix products outside of the gemm family (attention, recurrent layers): a few rows times one
// panel.
//
// A panel is K x 16 floats, row by row. With eight lanes and six rows the twelve sums, two panel vectors and one
// broadcast use fifteen of sixteen registers, and every loaded panel vector feeds six multiply-adds.
#pragma once

#include "simd/by_lane.h"

namespace mrt {
namespace {

constexpr int kPanelWidth = 16;

template <typename V>
struct PanelRows;  // rows of the largest block that fits in registers
template <>
struct PanelRows<F32x4> {
  static constexpr int value = 2;
};
#if defined(__aarch64__)
template <>
struct PanelRows<F32x4n> {
  static constexpr int value = 6;
};
#endif
#if defined(MRT_SIMD_AVX2)
template <>
struct PanelRows<F32x8> {
  static constexpr int value = 6;
};
#endif
#if defined(MRT_SIMD_AVX512)
template <>
struct PanelRows<F32x16> {
  static constexpr int value = 6;
};
#endif

// acc[r] += sum over d < k of a_r[d] * panel[d], a_r = a + r * lda.
template <typename V, int R>
MRT_INLINE void rows_times_panel(const float* a, int64_t lda, const float* panel, int64_t k,
                                 V (&acc)[R][kPanelWidth / V::width]) {
  constexpr int n = kPanelWidth / V::width;
  const float* row[R];
  for (int r = 0; r < R; ++r) row[r] = a + r * lda;
  int64_t d = 0;
  if constexpr (kMultipliesByLane<V>) {
    V(&sums)[1][R][n] = reinterpret_cast<V(&)[1][R][n]>(acc);
    for (; d + V::width <= k; d += V::width) add_lanes<V, R, n, 1>(row, d, panel + d * kPanelWidth, kPanelWidth, sums);
  }
#pragma GCC unroll 2
  for (; d < k; ++d) {
    V b[n];
#pragma GCC unroll 4
    for (int j = 0; j < n; ++j) b[j] = V::load(panel + d * kPanelWidth + j * V::width);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const V x = V::set(row[r][d]);
#pragma GCC unroll 4
      for (int j = 0; j < n; ++j) acc[r][j] = fma(x, b[j], acc[r][j]);
    }
  }
}

// c[r] = a[r] * panel, or c[r] = c[r] * alpha[r] + a[r] * panel where alpha is given; 16 columns.
template <typename V, int R>
void panel_block(const float* a, int64_t lda, const float* panel, int64_t k, const float* alpha, float* c,
                 int64_t ldc) {
  constexpr int n = kPanelWidth / V::width;
  V acc[R][n];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < n; ++j) acc[r][j] = V::zero();
  }
  rows_times_panel<V, R>(a, lda, panel, k, acc);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < n; ++j) {
      float* p = c + r * ldc + j * V::width;
      if (alpha != nullptr) acc[r][j] = fma(V::load(p), V::set(alpha[r]), acc[r][j]);
      acc[r][j].store(p);
    }
  }
}

// One row times P panels that lie panel_stride floats apart: c[p] += a * panel p. A single row and panel would wait for
// each multiply-add; more panels give it others to do.
template <typename V, int P>
void row_times_panels(const float* a, const float* panels, int64_t panel_stride, int64_t k, float* c) {
  constexpr int n = kPanelWidth / V::width;
  V acc[P][n];
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int j = 0; j < n; ++j) acc[p][j] = V::load(c + p * kPanelWidth + j * V::width);
  }
  int64_t d = 0;
  if constexpr (kMultipliesByLane<V>) {
    const float* const row[1] = {a};
    for (; d + V::width <= k; d += V::width) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        V(&sums)[1][1][n] = reinterpret_cast<V(&)[1][1][n]>(acc[p]);
        add_lanes<V, 1, n, 1>(row, d, panels + p * panel_stride + d * kPanelWidth, kPanelWidth, sums);
      }
    }
  }
  for (; d < k; ++d) {
    const V x = V::set(a[d]);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
      for (int j = 0; j < n; ++j) {
        acc[p][j] = fma(x, V::load(panels + p * panel_stride + d * kPanelWidth + j * V::width), acc[p][j]);
      }
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int j = 0; j < n; ++j) acc[p][j].store(c + p * kPanelWidth + j * V::width);
  }
}

// The block for any number of rows up to PanelRows<V>.
template <typename V>
MRT_INLINE void panel_rows(int rows, const float* a, int64_t lda, const float* panel, int64_t k, const float* alpha,
                           float* c, int64_t ldc) {
  switch (rows) {
    case 1:
      return panel_block<V, 1>(a, lda, panel, k, alpha, c, ldc);
    case 2:
      return panel_block<V, 2>(a, lda, panel, k, alpha, c, ldc);
    default:
      break;
  }
  if constexpr (PanelRows<V>::value > 2) {
    switch (rows) {
      case 3:
        return panel_block<V, 3>(a, lda, panel, k, alpha, c, ldc);
      case 4:
        return panel_block<V, 4>(a, lda, panel, k, alpha, c, ldc);
      case 5:
        return panel_block<V, 5>(a, lda, panel, k, alpha, c, ldc);
      default:
        return panel_block<V, 6>(a, lda, panel, k, alpha, c, ldc);
    }
  }
}

// The next block's rows out of `left`: full blocks, and the last two of about the same size.
MRT_INLINE int next_rows(int64_t left, int max_rows) {
  if (left <= max_rows) return static_cast<int>(left);
  if (left < 2 * max_rows) return static_cast<int>((left + 1) / 2);
  return max_rows;
}

}  // namespace
}  // namespace mrt
