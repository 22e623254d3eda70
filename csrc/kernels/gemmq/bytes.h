// Products of weights of 4 bits with activations that are rounded to 8 bits, block by block.
#pragma once

#include <cmath>

#include "kernels/gemmq/unpack.h"

namespace mrt {

constexpr int64_t kByteBlock = 32;                         // k's that share a scale of the activations
constexpr int64_t kPackedBlock = kByteBlock / 2 * kPanel;  // bytes of their weights in a panel
constexpr int64_t kBytePanels = 4;  // of one row at a time, or one: memory gives more to several streams
constexpr int64_t kByteRows = 4;    // rows at a time, or one

// Of a block of a row: what a byte stands for, and the bytes' sum.
struct BlockFactors {
  float scale, sum;
};

// A row as bytes: blocks of 32, the last one ended by zeros, and their factors.
struct ByteRow {
  int8_t* bytes;
  BlockFactors* factors;
};

// scale = max|x| / 127 of each block, and x / scale rounded half to even; the bytes of a block of zeros are zero. A
// block with a number that is not finite has a scale of NaN and bytes of zero.
using QuantizeRow = void (*)(const float* x, int64_t k, const ByteRow& to);
void quantize_row_reference(const float* x, int64_t k, const ByteRow& to);

// A panel's weights, all rows of them, times rows as bytes.
//
// Of a block b and a column: (sum_i w_i x_i - (zero + 8) * factors[b].sum), an integer that a float holds, times
// (scale * factors[b].scale); these are added in the order of the blocks. Each product and sum is rounded: the same on
// every instruction set. (w_i: four bits as they are stored, 8 more than the number.)
struct ByteRowsCall : UnpackCall {
  ByteRow first;
  int64_t bytes_apart, factors_apart;  // from one row to the next
};

struct BytesTable {
  QuantizeRow quantize;
  void (*one)(const ByteRowsCall&);     // out [16]
  void (*panels)(const ByteRowsCall&);  // of one row, four whole panels: out [4][16]; or null
  void (*four)(const ByteRowsCall&);    // out [4][16]
};
#define MRT_TABLE BytesTable
#define MRT_LIST kBytes
#define MRT_KERNELS "kernels/gemmq/bytes_kernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
