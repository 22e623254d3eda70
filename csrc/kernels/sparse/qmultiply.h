// The inner loops of products of bytes with sparse weights: rows of four columns of w, entries of four k's, so that an
// entry is 16 weights. Rows of a stand side by side as columns, four k's of each next to each other.
//
// `vpmaddubsw` adds two products in 16 bits and saturates (kernels/qgemm/tile.h); what the weights and a_max prove of
// an entry is its kind, and the packing holds the entries of a row by kind:
//   doubled  its sums of two products, added to those of the next doubled entry, fit in 16 bits; they come in pairs
//   single   its sums of two products do
//   wide     they need not
// Any order of entries gives the same sum, so packing looks for pairs among all single entries of a row.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"
#include "kernels/sparse/packing.h"

namespace mrt {

constexpr int kSparseDoubled = 0, kSparseSingle = 1, kSparseWide = 2, kSparseKinds = 3;

struct QSparseCall {
  SparsePart part;
  int64_t rows;          // of the part
  const uint8_t* x;      // [256][columns][4] of a
  int32_t* sums;         // [rows * 4][columns] of the chunk
  const int32_t* start;  // [rows * 4], what the sums begin with; null: with what they are
};

struct QSparseTable {
  int32_t lanes;                            // columns are a multiple of it
  int32_t vectors;                          // of as many columns at most
  void (*multiply[5])(const QSparseCall&);  // by vectors of columns; [0], or null: of one row of a alone
};
#define MRT_TABLE QSparseTable
#define MRT_LIST kQSparse
#define MRT_KERNELS "kernels/sparse/qkernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
