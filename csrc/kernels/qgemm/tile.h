// The inner loop of every product of 8-bit integers: a tile of at most kQMaxRows rows by 16 columns of
//   acc[i, j] += sum over taps t and k of a[t][i][k] * w[t][k][j],   a in 0..255, w in -128..127, acc in 32 bits.
//
// Four k's at a time, a *group*: 4 bytes of a row against 16 x 4 weights. `vpmaddubsw` adds two products in 16 bits and
// saturates, so a group may use it only where the weights prove that it cannot: packing (pack.h) sorts the groups into
//   wide      each product is made in 32 bits (`vpmaddwd`): any weights
//   single    255 * (w0 + w1) fits in 16 bits for both pairs of every column
//   doubled   the same for the sums over two groups next to each other, which are added in 16 bits before they are
//             widened
// Of the 16 k's of four groups, a *window*, any four can be the ones whose products are added in 16 bits: where the
// groups as they stand are not doubled (of 16 columns one nearly always holds a sum that is too large), packing looks
// for an order of the window in which they are, and a row is read through that order (`vpshufb`).
// Measured on Zen 3, tiles of 4 rows, rate of multiplications against fp32's FMA loop: wide 1.3, single 1.97, doubled
// 2.5. (vpsignb with |a - 128|, which is exact for all weights but -128, reaches 1.3 as well and needs more registers.)
#pragma once

#include <cstdint>

#include "kernels/epilogue/epilogue.h"
#include "kernels/kernel.h"

namespace mrt {

constexpr int64_t kQPanel = 16;    // columns of a packed panel
constexpr int64_t kQGroup = 4;     // k's of a group
constexpr int64_t kQWindow = 4;    // groups of a window
constexpr int64_t kQSegment = 64;  // groups that one pair of masks describes
constexpr int kQMaxRows = 8;       // of any table
constexpr int kQMaxPanels = 4;     // side by side
constexpr int kQWideLeast = 5;     // rows of a wide tile

// Kinds of the groups of a segment, a bit each; a group in none is single. A bit of `doubled` stands at an even group
// and speaks of this one and the next, a bit of `ordered` at the first group of a whole window, in which `wide` is
// ignored. All other bits are ignored.
struct QMasks {
  uint64_t wide, doubled, ordered;
};
constexpr uint64_t kQEven = 0x5555555555555555u;
constexpr uint64_t kQFirst = 0x1111111111111111u;  // of each window

// Which k's of its window stand in a group, a byte each: their own where a window is whole and not ordered.
struct QOrder {
  uint8_t k[kQGroup];
};

// What becomes of complete sums, 16 columns wide: y = act((acc - offset) * (scale * a_scale) + bias [+ residual]), and
// where y is quantized, q = clamp(y * inverse, lo, hi) rounded half to even, plus zero. Where y is quantized and no
// more is done than a clamp (see `folds`), `inverse` is multiplied into scale, bias and the bounds instead, once. With
// `w_zero` each sum is less row_sums[i] * w_zero[j] first. With `sum` what has been made bytes so, by its scale and
// bounds, is a term: q = clamp((term * scale + (residual - zero) * scale) / y_scale, lo, hi), rounded as above; sums of
// bytes are often half of a step, where a product by the inverse would round the other way.
struct QFolded;
struct QSum {
  float scale, inverse, lo, hi;  // of the term
  float residual_scale;
  int32_t residual_zero;
  float y_scale;
  // Where `quick`, as a tile's table found for these numbers (QTileTable::quicken), for any term and byte that is the
  // same to the bit, between bounds, as fma(term, of_term, fma(byte, of_residual, offset)).
  bool quick;
  float least, most;
  float of_term, of_residual, offset;
};
struct QFinishCall {
  int32_t* acc;  // [rows][16], ld apart; overwritten
  int64_t ld;
  bool floats;  // acc holds floats (whole numbers) and offset is 0; only where `folds`
  int64_t rows, n;
  const int32_t* offset;    // [16], zero point of a times the sums of the columns
  const int32_t* w_zero;    // null, or [16], zero points of the weights, and
  const int32_t* row_sums;  // [rows], of a less its zero point
  const float* scale;       // [n]
  float a_scale;            // of the activations, where only a run knows it; else 1
  const float* bias;        // null or [n]
  const float* residual;    // null, or [rows][n], ldr apart
  const uint8_t* bytes;     // the residual of `sum`, as that
  int64_t ldr;
  const Epilogue* epilogue;
  void* y;  // the first element: float, or a byte where `quantized`
  int64_t ldy;
  bool quantized;
  bool sums;  // y is the sums themselves, int32
  float inverse, lo, hi;
  int32_t zero;
  const QSum* sum;        // null, or what `bytes` are added to; only where `quantized`, and nothing more than a clamp
  const QFolded* folded;  // q_fold of this, where a caller has it already; else null
  bool folds() const { return quantized && !residual && !bytes && epilogue->clamp_only(); }
  // Whether floats are made of sums by no more than that and a residual.
  bool plain_floats() const { return !quantized && !sums && epilogue->clamp_only(); }
};

// The finish of a whole panel where it is one multiplication, one addition and bounds (see `folds`):
// q = clamp((acc + start) * scale + bias, lo, hi) rounded half to even, plus zero; `floats`: these before they are
// rounded, with a residual before the bounds or behind them; with `sum` q without its zero is the term of it.
struct QFolded {
  alignas(64) int32_t start[kQPanel];
  float scale[kQPanel], bias[kQPanel];
  float lo, hi;
  int32_t zero;
  int32_t columns;  // that exist
  bool floats, residual_after;
  bool is_signed;  // bytes
  bool fits;       // in 32 bits, what is rounded, whatever the sums; of all columns
  const QSum* sum;
  float sum_lo, sum_hi;  // of y where there is a sum; zero is y's
};
// Columns [0, f.n) of it; the others are zero.
QFolded q_fold(const QFinishCall& f);

// Tiles of the same height, one below the other.
struct QTileCall {
  int64_t tiles;
  const uint8_t* const* a;  // [taps][rows] of the first tile
  int64_t tile_pointers;    // of a, from one tile to the next
  int64_t a_offset;         // bytes, added to each of them
  int64_t taps, kc;         // kc bytes can be read from each pointer
  int64_t g0, g1;           // the whole groups of every tap to do; g0 is a multiple of kQSegment
  bool tail;                // and the kc % 4 bytes behind the last whole group
  const int8_t* w;          // group 0 of the first tap
  const int32_t* sums;      // [16], of each column's weights, of all taps
  int64_t tap_bytes;        // of weights from one tap to the next
  const QMasks* masks;      // segment 0 of the first tap
  int64_t tap_masks;        // from one tap to the next
  const QOrder* orders;     // group 0 of the first tap
  int64_t tap_orders;       // from one tap to the next
  int32_t* acc;             // [tiles * rows][16]
  bool first;               // acc is written, else added to
  // Null, or where sums are the first ones what they begin with; of each panel.
  const QFolded* folded_start;
  // Not null: the sums, with its start, are complete, and become bytes or floats at y (only where the table `folds`).
  const QFolded* folded;
  uint8_t* y;  // [tiles * rows][16], ldy bytes apart
  int64_t ldy;
  const float* residual;  // of floats: null, or like y, ldr floats apart
  const uint8_t* bytes;   // of a sum: the same
  int64_t ldr;
  // What is fetched into cache meanwhile: fetch_step bytes for each whole window of each tile.
  const char* fetch;
  int64_t fetch_step;
  int64_t tile_fetch() const { return taps * ((g1 - g0) / kQWindow) * fetch_step; }
  // Of QTileTable::wide; a step of fetching is then of a group.
  int64_t panels;
  int64_t panel_bytes;  // of weights from one to the next; 0 where there is one
  int64_t panel_sums;   // of acc from one to the next
};

// One row and panels one behind the other.
struct QRowCall {
  const uint8_t* a;
  int64_t kc, panels;
  const char* packed;                    // the first panel,
  int64_t bytes, orders_at, weights_at;  // of each; see pack.h
  int32_t* acc;                          // [panels][16]
};

struct QTileTable {
  int32_t mr;                                     // rows of a tile, at most
  bool folds;                                     // whether tiles take QTileCall::folded, of whole panels
  void (*tile[kQMaxRows + 1])(const QTileCall&);  // by a tile's number of rows, 1 to mr
  void (*finish)(const QFinishCall&);
  int32_t (*row_sum)(const uint8_t* a, int64_t n);  // of n bytes
  void (*row)(const QRowCall&);                     // null where nothing is better than tiles of one row
  // Weights of whole windows with their k's in order again; null where tiles need the order that they are stored in.
  void (*in_order)(const int8_t* w, const QOrder* orders, int64_t windows, int8_t* out);
  // Tiles over 1, 2 or kQMaxPanels panels whose k's stand in order, of kQWideLeast rows to wide_rows; null where a tile
  // of one panel is as good.
  int32_t wide_rows;
  // Null, or looks for QSum::quick.
  void (*quicken)(QSum* sum);
  void (*wide[kQMaxRows + 1])(const QTileCall&);
};
// The finish of a vector of columns at a time, which the tiles of wider sets take too: what they finish themselves is
// most.
using QFinishWith = void (*)(const QFinishCall& c, const EpilogueTable& activations);
extern const QFinishWith kQFinish_avx2, kQFinish_neon;
#define MRT_TABLE QTileTable
#define MRT_LIST kQTile
#define MRT_KERNELS "kernels/qgemm/kernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
