// The inner functions of products of two uint8 operands that every instruction set fills in.
//
// Neither operand is known ahead, so no sum of two products can be proved to fit in 16 bits: both are widened to 16
// bits about their zero points, and two products are added in 32 (`vpmaddwd`), which is exact. Where four products of
// bytes are added in 32 bits (`vpdpbusd`), b less 128 is packed as weights are, and many rows take their tiles.
#pragma once

#include "kernels/checks.h"

namespace mrt {

constexpr int64_t kPairPanel = 16;  // columns of a panel of b

// Depth in pairs: an odd depth is filled up with zeros.
inline int64_t pairs_of(int64_t k) { return k / 2 + k % 2; }

struct QMatmulKernel {
  int32_t rows;  // of a tile, at most
  // out[i] = x[i] - zero for i < n, then zeros up to an even n.
  void (*widen)(const uint8_t* x, int64_t n, int32_t zero, int16_t* out);
  // A panel of b [k][n], columns [0, columns): out[pairs_of(k)][kPairPanel][2], less the zero point, zeros elsewhere.
  void (*pack)(const uint8_t* b, int64_t k, int64_t ldb, int64_t columns, int32_t zero, int16_t* out);
  // acc[rows][kPairPanel] = a [rows][2 * pairs], lda apart, times a panel.
  void (*tile)(const int16_t* a, int64_t lda, int64_t rows, int64_t pairs, const int16_t* panel, int32_t* acc);
  // Null, or a panel of b less 128 for QTileTable::wide: out[ceil(k / 4)][kPairPanel][4], k >= 4, the last k % 4 behind
  // zeros; and the sums of its columns.
  void (*pack_bytes)(const uint8_t* b, int64_t k, int64_t ldb, int64_t columns, int8_t* out, int32_t* sums);
  // And what sums begin with: acc[panels][rows][kPairPanel] = of_row[rows] + of_column[panels][kPairPanel].
  void (*start)(const int32_t* of_row, int64_t rows, const int32_t* of_column, int64_t panels, int32_t* acc);
};

#define MRT_TABLE QMatmulKernel
#define MRT_LIST kQMatmul
#define MRT_KERNELS "kernels/qmatmul/kernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
