// Weights of few bits as floats again: a stretch of a packed panel, [rows][16], for the tiles of gemm_f32.
#pragma once

#include <cstdint>

#include "kernels/gemm/tile.h"

namespace mrt {

// (q - zero) * scale, rounded twice, of rows [row, row + rows) of one panel.
//
// 8 bits: [k][16] of int8. 4 bits: [ceil(k / 2)][16] of bytes, row 2i in the low and row 2i + 1 in the high four bits,
// 8 more than the number.
struct UnpackCall {
  const uint8_t* w;    // the panel
  const float* scale;  // of the panel's columns in the first group; step apart from group to group
  const int8_t* zero;  // the same, or null: 0
  int64_t step;        // from one group's to the next's
  int64_t columns;     // that there are, 1 to 16; the rest is zero
  int64_t group;       // rows that share a scale
  int64_t row, rows;
  float* out;
};

// The same weights, multiplied by a few rows of A and summed: out [rows of A][16].
struct RowsCall : UnpackCall {
  const float* a;  // from where a row's depth begins
  int64_t lda;
};
constexpr int kMaxFewRows = 4;

struct UnpackTable {
  void (*s8)(const UnpackCall&);
  void (*s4)(const UnpackCall&);
  void (*few_s8[kMaxFewRows + 1])(const RowsCall&);  // by number of rows
  void (*few_s4[kMaxFewRows + 1])(const RowsCall&);
};
#define MRT_TABLE UnpackTable
#define MRT_LIST kUnpack
#define MRT_KERNELS "kernels/gemmq/kernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
