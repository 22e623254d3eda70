// Weights of few bits as floats again: a stretch of a packed panel, [rows][16], for the tiles of gemm_f32.
#pragma once

#include <cstdint>

#include "kernels/gemm/tile.h"
#include "kernels/gemmq/scales.h"

namespace mrt {

// (q - zero) * scale, rounded twice, of rows [row, row + rows) of one panel.
//
// 8 bits: [k][16] of int8. 4 bits: [ceil(k / 2)][16] of bytes, row 2i in the low and row 2i + 1 in the high four bits,
// 8 more than the number.
struct UnpackCall {
  const uint8_t* w;    // the panel
  Scales scale;        // of the panel's columns in the first group; step apart from group to group
  const int8_t* zero;  // the same, or null: 0
  int64_t step;        // from one group's to the next's
  int64_t columns;     // that there are, 1 to 16; the rest is zero
  int64_t group;       // rows that share a scale
  int64_t row, rows;
  float* out;
};

// The same weights, multiplied by a few rows of A and summed: out [kMaxFewRows][16], of which there may be fewer.
struct RowsCall : UnpackCall {
  const float* a;  // from where a row's depth begins
  int64_t lda, rows_of_a;
};
constexpr int64_t kMaxFewRows = 4;

// One tile of gemm_f32, of the stretch's weights of 4 bits as they are. Stretch and groups begin in even rows, and have
// an even number of rows but for a group that is the only one.
struct DecodedTile : UnpackCall {
  int64_t next;  // from a panel's bytes to those that are read after them, which are fetched; 0: not known
  // Where two panels are multiplied at a time: from one to the other, or 0, the second being of no use.
  int64_t panel_apart, factors_apart;
};

struct UnpackTable {
  void (*s8)(const UnpackCall&);
  void (*s4)(const UnpackCall&);
  // By rows of the tile, null: there is none. Without `factors` it leaves the stretch as floats in `out`; with, that is
  // what it reads: scale and zero point (8 more than it) of each group, [2][16], of a second panel behind those.
  void (*tile_s4[kMaxTileRows + 1])(const DecodedTile&, const TileCall&, int rows);
  void (*factors)(const UnpackCall&);
  void (*few_s8[kMaxFewRows + 1])(const RowsCall&);  // by number of rows; null: tiles are quicker
  void (*few_s4[kMaxFewRows + 1])(const RowsCall&);
};
constexpr int64_t kGroupFactors = 4 * kPanel;  // floats
constexpr int64_t kLeastGroup = 16;            // of tile_s4: smaller ones have more factors than the scratch holds
#define MRT_TABLE UnpackTable
#define MRT_LIST kUnpack
#define MRT_KERNELS "kernels/gemmq/kernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
