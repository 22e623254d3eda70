// Weights of 16 bits: a stretch of a packed panel, [k][16], multiplied by a tile of gemm_f32 and left as floats for the
// others, or multiplied by a few rows as it is read.
#pragma once

#include <cstdint>

#include "kernels/gemm/tile.h"

namespace mrt {

struct HalvesCall {
  const uint16_t* w;  // the first row of the stretch
  int64_t rows;
  float* out;
};
// One tile of gemm_f32, which leaves the weights as floats in `out`, [rows][16].
struct HalvesTile : HalvesCall {
  int64_t next;  // numbers from those that are read to those that are read after the stretch, which are fetched
};
// Of one row of A, over the whole depth: out [16].
struct HalvesRow : HalvesCall {
  const float* a;
};

struct HalvesTable {
  struct Kind {
    void (*tile)(const HalvesTile&, const TileCall&, int rows);
    void (*row)(const HalvesRow&);
  } half, brain;  // float16 and bfloat16
};
#define MRT_TABLE HalvesTable
#define MRT_LIST kHalves
#define MRT_KERNELS "kernels/gemmq/kernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
