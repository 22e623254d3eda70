// Tiles of 8 x 16 with AVX-512 VNNI: a group of weights is one register, and `vpdpbusd` adds its four products in 32
// bits, so the kinds of groups do not matter. Where windows are ordered, either the weights were put back in order for
// many rows (weights_in_order), or the windows of a segment of rows are put into that order first, in memory, from
// where their groups are broadcast: a broadcast is a load, while a shuffle of a whole register takes the place of a
// product. Products of more rows take the tiles of wide_avx512.h.
#include "kernels/qgemm/finish_generic.h"
#include "kernels/qgemm/fold_avx512.h"
#include "kernels/qgemm/quick_sum_avx512.h"
#include "kernels/qgemm/wide_avx512.h"

namespace mrt {
namespace {

constexpr int kRows = 8;
constexpr int64_t kWindowBytes = kQWindow * kQGroup;
// Sums that take turns, so that few rows do not wait for each other's.
template <int MR>
constexpr int kTurns = MR == 1   ? 4
                       : MR <= 7 ? 2
                                 : 1;

MRT_INLINE __m512i broadcast4(const uint8_t* p) { return _mm512_set1_epi32(four_bytes(p)); }
MRT_INLINE __m512i load64(const void* p) { return _mm512_loadu_si512(p); }

// Fetches into cache what comes next, a step at a time.
class Fetch {
 public:
  MRT_INLINE explicit Fetch(const QTileCall& c) : at_(c.fetch), step_(c.fetch_step) {}
  MRT_INLINE void operator()() {
    __builtin_prefetch(at_);
    if (step_ > 64) {  // of few tiles
#pragma GCC unroll 4
      for (int i = 1; i <= static_cast<int>(kQWindow); ++i) __builtin_prefetch(at_ + i * 64);
    }
    at_ += step_;
  }

 private:
  const char* at_;
  int64_t step_;
};

template <int MR>
MRT_INLINE void step(const uint8_t* const (&row)[MR], int64_t k, const int8_t* w, __m512i (&acc)[MR]) {
  const __m512i weights = load64(w);
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) acc[i] = _mm512_dpbusd_epi32(acc[i], broadcast4(row[i] + k), weights);
}

// The windows of a segment of rows in their panel's order.
struct Reordered {
  alignas(64) uint8_t bytes[kRows][kQSegment * kQGroup];

  // All of them, those too that are not ordered: their order is their own. Four windows at a time, what lies behind the
  // last ones masked.
  template <int MR>
  MRT_INLINE void fill(const uint8_t* const (&row)[MR], int64_t k0, int64_t windows, const QOrder* orders) {
    uint64_t there = ~uint64_t{0} >> (kQSegment - windows * kQWindow);  // groups
    for (int64_t at = 0; there != 0; at += 64, there >>= 16) {
      const __mmask16 some = static_cast<__mmask16>(there);
      const __m512i order = _mm512_maskz_loadu_epi32(some, reinterpret_cast<const char*>(orders) + at);
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) {
        const __m512i four = _mm512_maskz_loadu_epi32(some, row[i] + k0 + at);
        _mm512_store_si512(bytes[i] + at, _mm512_shuffle_epi8(four, order));
      }
    }
  }
};

// Of rows of kc the last of the whole groups, and what is behind them (see tail_bytes): out [groups + tail][rows].
MRT_ONE_COPY void ends(const uint8_t* const* row, int64_t rows, int64_t kc, int64_t groups, bool tail, int32_t* out) {
#pragma GCC unroll 1
  for (int64_t i = 0; i < rows; ++i) {
    const uint8_t* const end = row[i] + kc / kQGroup * kQGroup;
    int32_t* to = out + i;
    for (int64_t g = groups; g > 0; --g, to += rows) *to = four_bytes(end - g * kQGroup);
    if (tail) *to = tail_bytes(row[i], kc);
  }
}

// Rows of sums and `start` as bytes, four at a time: the last four twice in part, if need be.
MRT_ONE_COPY void rows_of_bytes(const QFolded& f, const int32_t* start, const int32_t* acc, int64_t ld, int64_t rows,
                                uint8_t* y, int64_t ldy) {
  const FoldedStore store(f);
  const __m512i more = load64(start);
  const auto sum = [&](int64_t i)
                       __attribute__((always_inline)) { return _mm512_add_epi32(load64(acc + i * ld), more); };
  if (rows < 4) {
    for (int64_t i = 0; i < rows; ++i) store({sum(i)}, y + i * ldy, ldy);
    return;
  }
  for (int64_t next = 0; next < rows; next += 4) {
    const int64_t i = next < rows - 4 ? next : rows - 4;
    store({sum(i), sum(i + 1), sum(i + 2), sum(i + 3)}, y + i * ldy, ldy);
  }
}

// One body for all kinds of tiles: sums pass through memory to what they become, so that no height has its own of that.
template <int MR>
void tile(const QTileCall& c) {
  Fetch fetch(c);
  Reordered reordered;
  int32_t last[kQWindow * MR];
  alignas(64) int32_t complete[MR * kQPanel];
  const bool to_bytes = c.folded && !c.folded->floats;
  static constexpr QFolded kNone = {};
  const FoldedStore store(MR == kRows && to_bytes ? *c.folded : kNone);
  const __m512i start = load64(c.folded_start ? c.folded_start->start : kNothing);
  for (int64_t t = 0; t < c.tiles; ++t) {
    const uint8_t* const* const a = c.a + t * c.tile_pointers;
    int32_t* const sums = c.acc + t * MR * kQPanel;
    __m512i turns[kTurns<MR>][MR];
    __m512i(&acc)[MR] = turns[0];
#pragma GCC unroll 16
    for (int i = 0; i < MR * kTurns<MR>; ++i) turns[i / MR][i % MR] = i < MR ? start : _mm512_setzero_si512();
    for (int64_t tap = 0; tap < c.taps; ++tap) {
      const uint8_t* row[MR];
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) row[i] = a[tap * MR + i] + c.a_offset;
      const int8_t* w = c.w + tap * c.tap_bytes + c.g0 * 64;
      for (int64_t g0 = c.g0; g0 < c.g1; g0 += kQSegment) {
        const int64_t windows = (c.g1 - g0 < kQSegment ? c.g1 - g0 : kQSegment) / kQWindow;
        const bool ordered = windows > 0 && c.masks[tap * c.tap_masks + g0 / kQSegment].ordered & kQFirst;
        if (ordered) reordered.fill<MR>(row, g0 * kQGroup, windows, c.orders + tap * c.tap_orders + g0);
        const uint8_t* from[MR];
#pragma GCC unroll 8
        for (int i = 0; i < MR; ++i) {
          from[i] = ordered ? reordered.bytes[i] : row[i] + g0 * kQGroup;
          __asm__("" : "+r"(from[i]));  // or vectors of addresses are made, and taken apart again
        }
        for (int64_t v = 0; v < windows; ++v, w += kQWindow * 64) {
          fetch();
#pragma GCC unroll 4
          for (int g = 0; g < static_cast<int>(kQWindow); ++g) {
            step<MR>(from, v * kWindowBytes + g * kQGroup, w + g * 64, turns[g % kTurns<MR>]);
          }
        }
      }
      const int64_t rest = (c.g1 - c.g0) % kQWindow;
      if (rest + c.tail == 0) continue;
      ends(row, MR, c.kc, rest, c.tail, last);
#pragma GCC unroll 1
      for (int64_t g = 0; g < rest + c.tail; ++g, w += 64) {
        const __m512i weights = load64(w);
#pragma GCC unroll 8
        for (int i = 0; i < MR; ++i) {
          acc[i] = _mm512_dpbusd_epi32(acc[i], _mm512_set1_epi32(last[g * MR + i]), weights);
        }
      }
    }
#pragma GCC unroll 16
    for (int i = MR; i < MR * kTurns<MR>; ++i) acc[i % MR] = _mm512_add_epi32(acc[i % MR], turns[i / MR][i % MR]);
    if (!c.first) {
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) acc[i] = _mm512_add_epi32(acc[i], load64(sums + i * kQPanel));
    }
    if (MR == kRows && to_bytes) {  // shallow products of few columns do little else
      store(acc, c.y + t * MR * c.ldy, c.ldy);
      continue;
    }
    int32_t* const to = c.folded ? complete : sums;
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) _mm512_storeu_si512(to + i * kQPanel, acc[i]);
    if (!c.folded) continue;
    if (c.folded->floats) {
      wide_floats(c, reinterpret_cast<const __m512i*>(complete), MR, t * MR);
    } else {
      rows_of_bytes(*c.folded, kNothing, complete, kQPanel, MR, c.y + t * MR * c.ldy, c.ldy);
    }
  }
}

// Every whole window through its order, which is its own where it is not ordered: a branch for each window and panel
// would be guessed wrong as often as right.
void row_of_panels(const QRowCall& c) {
  const int64_t whole = c.kc / kQGroup, windows = whole / kQWindow;
  const char* packed = c.packed;
  for (int64_t p = 0; p < c.panels; ++p, packed += c.bytes) {
    const int8_t* w = reinterpret_cast<const int8_t*>(packed + c.weights_at);
    const char* orders = packed + c.orders_at;
    const uint8_t* const row[1] = {c.a};
    __m512i acc[kQWindow][1] = {};
    for (int64_t v = 0; v < windows; ++v, w += kQWindow * 64, orders += kWindowBytes) {
      const __m512i window =
          _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(c.a + v * kWindowBytes)));
#pragma GCC unroll 4
      for (int g = 0; g < static_cast<int>(kQWindow); ++g) {
        const __m512i order = _mm512_set1_epi32(four_bytes(reinterpret_cast<const uint8_t*>(orders) + g * kQGroup));
        acc[g][0] = _mm512_dpbusd_epi32(acc[g][0], _mm512_shuffle_epi8(window, order), load64(w + g * 64));
      }
    }
    const int64_t rest = whole % kQWindow;
    const bool tail = c.kc % kQGroup != 0;
    int32_t last[kQWindow];
    if (rest + tail > 0) ends(row, 1, c.kc, rest, tail, last);
#pragma GCC unroll 1
    for (int64_t g = 0; g < rest + tail; ++g, w += 64) {
      acc[0][0] = _mm512_dpbusd_epi32(acc[0][0], _mm512_set1_epi32(last[g]), load64(w));
    }
    const __m512i a = _mm512_add_epi32(acc[0][0], acc[1][0]), b = _mm512_add_epi32(acc[2][0], acc[3][0]);
    _mm512_storeu_si512(c.acc + p * kQPanel, _mm512_add_epi32(a, b));
  }
}

// Four groups as [column][16 k's], four columns a register, and such as groups again.
MRT_INLINE void transpose_quads(__m512i (&x)[kQWindow]) {
  const __m512i a = _mm512_unpacklo_epi32(x[0], x[1]), b = _mm512_unpackhi_epi32(x[0], x[1]);
  const __m512i c = _mm512_unpacklo_epi32(x[2], x[3]), d = _mm512_unpackhi_epi32(x[2], x[3]);
  x[0] = _mm512_unpacklo_epi64(a, c);
  x[1] = _mm512_unpackhi_epi64(a, c);
  x[2] = _mm512_unpacklo_epi64(b, d);
  x[3] = _mm512_unpackhi_epi64(b, d);
}

// A column's k's go back to their places; see QTileTable. Windows that are in order are copied.
void weights_in_order(const int8_t* w, const QOrder* orders, int64_t windows, int8_t* out) {
  constexpr int64_t kSome = 16, kBytes = kWindowBytes * kQPanel;
  alignas(64)
      uint8_t place[kSome][kWindowBytes] = {};  // of each k of a window; what was just stored is not read at once
  const __m128i own = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t begin = 0; begin < windows; begin += kSome) {
    const int64_t some = windows - begin < kSome ? windows - begin : kSome;
    uint32_t ordered = 0;
    for (int64_t v = 0; v < some; ++v, orders += kQWindow) {
      const __m128i order = _mm_loadu_si128(reinterpret_cast<const __m128i*>(orders));
      if (_mm_cmpeq_epi8_mask(_mm_and_si128(order, _mm_set1_epi8(15)), own) == 0xffff) continue;
      ordered |= 1u << v;
      for (int i = 0; i < static_cast<int>(kWindowBytes); ++i) {
        place[v][orders[i / kQGroup].k[i % kQGroup] & (kWindowBytes - 1)] = static_cast<uint8_t>(i);
      }
    }
    for (int64_t v = 0; v < some; ++v, w += kBytes, out += kBytes) {
      __m512i x[kQWindow];
#pragma GCC unroll 4
      for (int64_t g = 0; g < kQWindow; ++g) x[g] = load64(w + g * 64);
      if (ordered >> v & 1) {
        const __m512i places = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(place[v])));
        transpose_quads(x);
#pragma GCC unroll 4
        for (int64_t g = 0; g < kQWindow; ++g) x[g] = _mm512_shuffle_epi8(x[g], places);
        transpose_quads(x);
      }
#pragma GCC unroll 4
      for (int64_t g = 0; g < kQWindow; ++g) _mm512_storeu_si512(out + g * 64, x[g]);
    }
  }
}

// No more than QFolded, of whole panels, or else any.
void finish(const QFinishCall& c) {
  if (!c.folds() || c.floats || c.w_zero || c.n < kQPanel) return kQFinish_avx2(c, kEpilogue_avx512);
  const QFolded f = c.folded ? *c.folded : q_fold(c);
  rows_of_bytes(f, f.start, c.acc, c.ld, c.rows, static_cast<uint8_t*>(c.y), c.ldy);
}

}  // namespace

extern const QTileTable kQTile_avx512 = {
    kRows,
    true,
    {nullptr, tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>, tile<7>, tile<8>},
    finish,
    q_row_sum,
    row_of_panels,
    weights_in_order,
    kWideRows,
    quicken,
    {nullptr, nullptr, nullptr, nullptr, nullptr, wide_rows<5>, wide_rows<6>}};

}  // namespace mrt
