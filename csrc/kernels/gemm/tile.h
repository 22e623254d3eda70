// The inner loop of every matrix product: a tile of at most table.mr rows by 16 columns of
//   y[i, j] = act(bias[j] + sum over taps t and k of a[t][i][k] * w[t][k][j] + residual[i, j]).
//
// The rows of A are given as pointers, one per tap and row, so that one kernel serves GEMM (one tap) and convolution
// (a tap per position of the filter; rows outside the image point at zeros) without copying the input.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace mrt {

constexpr int64_t kPanel = 16;  // columns of a packed panel; part of the packings' format

// Tiles of the same height, one below the other.
struct TileCall {
  int64_t tiles;
  const float* const* a;  // [taps][rows] of the first tile
  int64_t tile_pointers;  // of a, from one tile to the next
  int64_t a_offset;       // floats, added to each of them
  int64_t taps, kc;       // kc floats are read from each pointer
  const float* w;         // [taps * kc] rows of 16 floats, ldw apart
  int64_t ldw;
  const char* fetch;  // what is fetched into cache meanwhile: fetch_step bytes for each row of w and tile
  int64_t fetch_step;
  float* c;  // [tiles * rows][n], ldc apart
  int64_t ldc;
  int64_t n;              // columns to store, 1 to 16
  const float* bias;      // null, or n floats
  const float* residual;  // null, or like c
  int64_t ldr;
  float lo, hi;
  bool first;           // the accumulator starts from bias, else from c
  bool last;            // residual and clamping follow, else the plain sum is stored
  bool residual_after;  // the residual is added after clamping
};

// How a product is cut into blocks; a step's hint may say otherwise: "depth=768 rows_kib=128". These are for products
// of 384 to 2048 cubed on Zen 3 (32 KiB L1, 512 KiB L2), where the optimum is flat.
struct Blocking {
  int64_t depth = 384;            // floats of depth a stretch: 24 KiB of weights
  int64_t row_bytes = 256 << 10;  // of A in one stretch of a block of rows

  int64_t max_stretch() const { return depth + depth / 2; }
};

constexpr int kMaxTileRows = 8;  // of any table

struct TileTable {
  int32_t mr;                                       // rows of a tile, at most
  void (*tile[kMaxTileRows + 1])(const TileCall&);  // by number of rows, 1 to mr
  Blocking blocking;                                // that suits its tiles, of gemm and of conv2d with one tap
  Blocking taps_blocking;                           // of conv2d with several
};
#define MRT_TABLE TileTable
#define MRT_LIST kTile
#define MRT_KERNELS "kernels/gemm/kernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
