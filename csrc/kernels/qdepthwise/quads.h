// Depthwise rows where an instruction adds up four products of bytes in 32 bits (`vpdpbusd`).
//
// The four pixels from a position of a line on, of 16 channels, make a *quad*: 16 x 4 bytes. A line of the filter is
// ceil(kernel_w / 4) terms, each one instruction for 16 channels of a pixel; weights behind the filter's end are zero.
// Pixels outside of the image are zero points. Lines become quads once each, as they become floats where an instruction
// set has no table here (op.cc).
#pragma once

#include <cstdint>

#include "kernels/conv2d/geometry.h"
#include "kernels/qdepthwise/pieces.h"
#include "kernels/qgemm/tile.h"

namespace mrt {

constexpr int64_t kQuadBytes = 4 * kQPanel;

// A line of the image, or what of it one row of the output sees.
struct QuadLine {
  const uint8_t* x;        // pixel 0, the first of the channels
  int64_t pixels, stride;  // bytes from one pixel to the next
  int64_t channels;        // at most 16
  int64_t first;           // the pixel at position 0: negative where there is padding
  int64_t positions;
  uint8_t zero;
  uint8_t* out;  // [positions][16][4]
};

struct QuadRow {
  const uint8_t* const* x;  // of each term, its quad for the first pixel
  const int8_t* w;          // [terms][16][4]
  int64_t terms, pixels;
  int32_t* acc;           // [pixels][16] sums, or
  const QFolded* folded;  // not null: they become bytes
  uint8_t* y;             // [pixels][16], ldy apart
  int64_t ldy;
};

struct QuadTable {
  // Weights [taps][8] of float, `block` apart for the next 8 channels (null: there are none), to quads
  // [kernel_h][ceil(kernel_w / 4)][16][4]; and `zero` times the sum of each channel's.
  void (*weights)(const float* w, const float* next, int64_t kernel_h, int64_t kernel_w, uint8_t zero, int8_t* out,
                  int32_t* offset);
  void (*line[2])(const QuadLine&);  // positions 1 and 2 pixels apart
  void (*row)(const QuadRow&);
};
#define MRT_TABLE QuadTable
#define MRT_LIST kQuad
#define MRT_KERNELS "kernels/qdepthwise/quads.inc"
#include "kernels/kernel_list.inc"
// Null where the instruction set has none, or where another way is better for this geometry.
const QuadTable* quad_table(Isa isa, const ConvGeometry& g);

struct QuadImage {
  const ConvGeometry* g;
  const QuadTable* table;
  const QTileTable* tiles;  // for the finish
  const uint8_t* x;
  const float* w;
  uint8_t zero;
  int64_t h, width;          // of the input
  int64_t out_h, out_width;  // of the output
  QFinishCall finish;        // of row and channel 0
};
size_t quad_scratch(const ConvGeometry& g, int64_t h, int64_t out_width);  // of each thread
// The most channels of a piece: what lines of theirs stay near.
int64_t quad_channels(const ConvGeometry& g, int64_t h, int64_t out_width);
// Before the first piece of a step; then pieces on one scratch, of which each finds what the one before it left.
void quad_begin(char* scratch);
void quad_rows(const QuadImage& m, const DepthwisePiece& piece, char* scratch);

}  // namespace mrt
