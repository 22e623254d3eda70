// Depthwise rows where an instruction adds up four products of bytes in 32 bits (`vpdpbusd`, `sdot`).
//
// The bytes that four positions of the filter see, of 16 channels, make a *quad*: 16 x 4 bytes; a *term* is such
// positions with their weights, one instruction for 16 channels of a pixel. Up to four lines of the filter make a
// *tall* stream of quads, one a pixel, each a term for every position of a line; a line that is left makes a *flat*
// one, of four pixels next to each other. Positions behind the filter's end have weights of zero.
//
// Channels are done 64, 32 or 16 at a time, a *unit*: bytes of so many channels are put in order most easily in an
// order of their own, which weights and finish follow, and which a finish of bytes undoes. A few rows, or a part of a
// long one, are made quads and then sums, which stay in registers until they are bytes. Pixels outside of the image are
// zero points.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/conv2d/geometry.h"
#include "kernels/qdepthwise/pieces.h"
#include "kernels/qgemm/tile.h"
#include "simd/vec.h"

namespace mrt {

constexpr int64_t kQuadBytes = 4 * kQPanel;
constexpr int64_t kQuadPanels = 4;  // of 16 channels, at most, of a unit
constexpr int kQuadUnits = 3;       // unit i is of 16 << i channels

// Which streams and terms there are.
struct QuadShape {
  int64_t kernel_h, kernel_w, tall;
  int64_t flat() const { return std::max<int64_t>(0, kernel_h - 4 * tall); }
  int64_t flat_terms() const { return (kernel_w + 3) / 4; }
  int64_t streams() const { return tall + flat(); }
  int64_t terms() const { return tall * kernel_w + flat() * flat_terms(); }
  // f(stream, position, tap, step, count) of every term: what it reads stands `position` pixels behind an output's
  // first; its weights are `count` ones from position `tap` of the filter on, `step` apart.
  template <typename F>
  MRT_INLINE void each_term(F&& f) const {
    for (int64_t s = 0; s < tall; ++s) {
      const int64_t count = std::min<int64_t>(4, kernel_h - 4 * s);
      for (int64_t k = 0; k < kernel_w; ++k) f(s, k, 4 * s * kernel_w + k, kernel_w, count);
    }
    for (int64_t line = 4 * tall; line < kernel_h; ++line) {
      for (int64_t k = 0; k < kernel_w; k += 4) {
        f(line - 3 * tall, k, line * kernel_w + k, int64_t{1}, std::min<int64_t>(4, kernel_w - k));
      }
    }
  }
};

// Weights of a unit as quads, in the channels' own order.
struct QuadWeights {
  QuadShape shape;
  int64_t panels;
  const float* w;  // [taps][8], `block` floats apart for the next 8 channels,
  int64_t block;
  int64_t blocks;  // of which there are so many
  uint8_t zero;
  int8_t* out;      // [terms][panels][16][4]
  int32_t* offset;  // [channels] of the unit: `zero` times the sum of each one's
};

// The quads of a row, or a part of one, in a stream.
struct QuadStream {
  const uint8_t* line[4];  // pixel 0, the first of the channels; null outside of the image
  int64_t shift;           // from the pixel of a line to the next one's: 0 where tall, 1 where flat
  int64_t pixels, stride;  // bytes from one pixel to the next
  int64_t channels;        // of the unit that exist
  int64_t first;           // the pixel of position 0: negative where there is padding
  int64_t positions;
  const uint8_t* nothing;   // a pixel of zero points
  uint8_t* out;             // [panels][16][4] of position 0,
  int64_t to_odd, to_even;  // and how far the next one's are, from an even position and from an odd one
};

// How sums of a unit become bytes, in its order: those of (sum + start) * scale + bias, rounded, and zero, from lo to
// hi, then with `flip`, which is the sign bit where there are negative ones and is in the three others.
struct QuadFinish {
  alignas(64) int32_t start[kQuadPanels][kQPanel];
  float scale[kQuadPanels][kQPanel], bias[kQuadPanels][kQPanel];
  int16_t zero;
  uint8_t lo, hi, flip;
};

// Rows below each other.
struct QuadRows {
  const uint8_t* const* x;  // of each term, its quads for all pixels of the first row,
  int64_t row_step;         // bytes from one row's to the next one's
  const int8_t* w;          // see QuadWeights
  int64_t terms, pixels, rows;
  int32_t* acc;              // not null: [rows * pixels][16], a unit of 16 channels' sums; else
  const QuadFinish* finish;  // they become bytes
  int64_t channels;
  uint8_t* y;  // [rows * pixels][channels], ldy apart
  int64_t ldy;
};

struct QuadTable {
  void (*weights)(const QuadWeights&);
  // Of panels in their own order, which fit.
  void (*finish)(const QFolded* panels, int64_t n, QuadFinish* out);
  // By unit: `count` times 16 x 4 bytes of each panel, next to each other, into the unit's order; null where it is
  // that.
  void (*arrange[kQuadUnits])(void* values, int64_t count);
  void (*stream[kQuadUnits])(const QuadStream&);
  void (*rows[kQuadUnits])(const QuadRows&);
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
size_t quad_scratch(const ConvGeometry& g, int64_t out_width);  // of each thread
void quad_rows(const QuadImage& m, const DepthwisePiece& piece, char* scratch);

}  // namespace mrt
