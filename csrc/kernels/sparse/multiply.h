// The inner loops of products with sparse weights: sums of a part (packing.h) over a few rows of a, which stand side by
// side as columns, so that one weight meets a vector of them.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"
#include "kernels/sparse/packing.h"

namespace mrt {

struct SparseCall {
  SparsePart part;
  int64_t rows;       // of the part
  const float* x;     // [256][columns] of a, transposed
  float* sums;        // [rows * width][columns] of the chunk
  const float* bias;  // [rows * width], what the sums begin with; null: with what they are
};

struct SparseTable {
  int32_t lanes;       // columns are a multiple of it
  int32_t vectors[2];  // of as many columns at most, for rows of one and of four columns of w
  using Multiply = void (*)(const SparseCall&);
  Multiply single[5];   // rows of one column of w, by vectors of columns; [0], or null: of one row of a alone
  Multiply blocked[5];  // rows of four; the same
  // dst[c * dst_stride + r] = src[r * src_stride + c] for so many rows and columns of src: of floats, with whether all
  // are finite; and of anything of four bytes.
  bool (*load)(const float* src, int64_t src_stride, int64_t rows, int64_t columns, float* dst, int64_t dst_stride);
  void (*transpose)(const float* src, int64_t src_stride, int64_t rows, int64_t columns, float* dst,
                    int64_t dst_stride);
};
#define MRT_TABLE SparseTable
#define MRT_LIST kSparse
#define MRT_KERNELS "kernels/sparse/kernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
