// Tiles of 4 x 16 with AVX-512 VNNI: a group of weights is one register, and `vpdpbusd` adds its four products in 32
// bits, so the kinds of groups do not matter. Where a window is ordered, either its weights were put back in order for
// many tiles (weights_in_order), or the windows of a segment of rows are put into that order first, in memory, from
// where their groups are broadcast: a broadcast is a load, while a shuffle of a whole register takes the place of a
// product. Measured on Zen 4: 0.9 (8 tiles) to 0.98 (63) and 0.86 of the rate without any order, twice that of
// tile_avx2.cc. Products of more rows take the tiles of wide_avx512.h.
#include "kernels/qgemm/finish_generic.h"
#include "kernels/qgemm/fold_avx512.h"
#include "kernels/qgemm/wide_avx512.h"

namespace mrt {
namespace {

constexpr int kRows = 4;
constexpr int64_t kWindowBytes = kQWindow * kQGroup;
// Sums that take turns, so that so few rows do not wait for each other's.
template <int MR>
constexpr int kTurns = MR == 1 ? 4 : 2;

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

// The last kc % 4 bytes of rows of kc.
template <int MR>
MRT_INLINE void step_tail(const uint8_t* const (&row)[MR], int64_t kc, const int8_t* w, __m512i (&acc)[MR]) {
  const __m512i weights = load64(w);
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    acc[i] = _mm512_dpbusd_epi32(acc[i], _mm512_set1_epi32(tail_bytes(row[i], kc)), weights);
  }
}

// A whole window from `k` on, through its order.
template <int MR>
MRT_INLINE void step_ordered(const uint8_t* const (&row)[MR], int64_t k, const int8_t* w, const QOrder* orders,
                             __m512i (&acc)[kTurns<MR>][MR]) {
  alignas(64) uint8_t window[MR][kWindowBytes];
  const __m128i order = _mm_loadu_si128(reinterpret_cast<const __m128i*>(orders));
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row[i] + k));
    _mm_store_si128(reinterpret_cast<__m128i*>(window[i]), _mm_shuffle_epi8(bytes, order));
  }
  __asm__ volatile("" : "+m"(window));  // or the compiler keeps them in registers and shuffles after all
#pragma GCC unroll 4
  for (int g = 0; g < static_cast<int>(kQWindow); ++g) {
    const __m512i weights = load64(w + g * 64);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      __m512i& sum = acc[g % kTurns<MR>][i];
      sum = _mm512_dpbusd_epi32(sum, broadcast4(window[i] + g * kQGroup), weights);
    }
  }
}

// The windows of a segment of MR rows in their panel's order.
template <int MR>
struct Reordered {
  alignas(64) uint8_t bytes[MR][kQSegment * kQGroup];

  // All of them, those too that are not ordered: their order is their own. Four windows at a time, the last ones
  // masked.
  MRT_INLINE void fill(const uint8_t* const (&row)[MR], int64_t k0, int64_t windows, const QOrder* orders) {
    for (int64_t at = 0; at < windows * kWindowBytes; at += 64) {
      const int64_t left = windows * kWindowBytes - at;
      const __mmask64 there = left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
      const __m512i order = _mm512_maskz_loadu_epi8(there, reinterpret_cast<const char*>(orders) + at);
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) {
        const __m512i four = _mm512_maskz_loadu_epi8(there, row[i] + k0 + at);
        _mm512_store_si512(bytes[i] + at, _mm512_shuffle_epi8(four, order));
      }
    }
  }
};

// Whole windows, those with a bit in `ordered` through their order.
template <int MR>
MRT_INLINE void whole_windows(const uint8_t* const (&row)[MR], int64_t k0, int64_t windows, const int8_t* w,
                              uint64_t ordered, const QOrder* orders, __m512i (&acc)[kTurns<MR>][MR], Fetch& fetch) {
  for (int64_t v = 0; v < windows; ++v) {
    const int64_t g = v * kQWindow, k = k0 + g * kQGroup;
    fetch();
    if (ordered >> g & 1) {
      step_ordered<MR>(row, k, w + g * 64, orders + g, acc);
      continue;
    }
#pragma GCC unroll 4
    for (int64_t i = 0; i < kQWindow; ++i) step<MR>(row, k + i * kQGroup, w + (g + i) * 64, acc[i % kTurns<MR>]);
  }
}

// Groups [0, groups) of a segment; `masks.ordered` has a bit for each window. All windows are put into order together
// where most need it: measured, the two ways meet where about 0.6 of them do.
template <int MR>
MRT_INLINE void segment(const uint8_t* const (&row)[MR], int64_t k0, int64_t groups, const int8_t* w, QMasks masks,
                        const QOrder* orders, __m512i (&acc)[kTurns<MR>][MR], Fetch& fetch) {
  const int64_t windows = groups / kQWindow;
  if (__builtin_popcountll(masks.ordered & kQFirst) * 8 > windows * 5) {
    Reordered<MR> reordered;
    reordered.fill(row, k0, windows, orders);
    const uint8_t* from[MR];
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) from[i] = reordered.bytes[i];
    whole_windows<MR>(from, 0, windows, w, 0, orders, acc, fetch);
  } else {
    whole_windows<MR>(row, k0, windows, w, masks.ordered, orders, acc, fetch);
  }
  for (int64_t g = windows * kQWindow; g < groups; ++g) step<MR>(row, k0 + g * kQGroup, w + g * 64, acc[0]);
}

template <int MR>
MRT_INLINE void one_tile(const QTileCall& c, const uint8_t* const* a, int32_t* sums, uint8_t* y, const float* residual,
                         Fetch& fetch) {
  __m512i turns[kTurns<MR>][MR];
  __m512i(&acc)[MR] = turns[0];
  const __m512i start = c.folded_start ? load64(c.folded_start->start) : _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int i = 0; i < MR * kTurns<MR>; ++i) turns[i / MR][i % MR] = i < MR ? start : _mm512_setzero_si512();
  for (int64_t t = 0; t < c.taps; ++t) {
    const uint8_t* row[MR];
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) row[i] = a[t * MR + i] + c.a_offset;
    const int8_t* const w = c.w + t * c.tap_bytes;
    const QOrder* const orders = c.orders + t * c.tap_orders;
    const QMasks* const masks = c.masks + t * c.tap_masks;
    for (int64_t g = c.g0; g < c.g1; g += kQSegment) {
      const int64_t groups = c.g1 - g < kQSegment ? c.g1 - g : kQSegment;
      segment<MR>(row, g * kQGroup, groups, w + g * 64, masks[g / kQSegment], orders + g, turns, fetch);
    }
    if (!c.tail) continue;
    step_tail<MR>(row, c.kc, w + c.kc / kQGroup * 64, acc);
  }
#pragma GCC unroll 8
  for (int i = MR; i < MR * kTurns<MR>; ++i) acc[i % MR] = _mm512_add_epi32(acc[i % MR], turns[i / MR][i % MR]);
  if (!c.first) {
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) acc[i] = _mm512_add_epi32(acc[i], load64(sums + i * kQPanel));
  }
  if (c.folded && c.folded->floats) {
    return store_floats<F32x16, MR>(*c.folded, y, c.ldy, residual, c.ldr, [&](int i, int) { return I32x16{acc[i]}; });
  }
  if (c.folded) return FoldedStore(*c.folded)(acc, y, c.ldy);
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) _mm512_storeu_si512(sums + i * kQPanel, acc[i]);
}

template <int MR>
void tile(const QTileCall& call) {
  const QTileCall c = call;  // of our own: what is stored through y could be anything, and all would be read again
  Fetch fetch(c);
  for (int64_t t = 0; t < c.tiles; ++t) {
    one_tile<MR>(c, c.a + t * c.tile_pointers, c.acc + t * MR * kQPanel, c.y + t * MR * c.ldy,
                 c.residual ? c.residual + t * MR * c.ldr : nullptr, fetch);
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
    for (int64_t g = windows * kQWindow; g < whole; ++g, w += 64) step<1>(row, g * kQGroup, w, acc[g % kQWindow]);
    if (c.kc % kQGroup != 0) step_tail<1>(row, c.kc, w, acc[3]);
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

// Four rows of sums at a time where no more than QFolded is done with them.
void finish(const QFinishCall& c) {
  if (!c.folds() || c.floats || c.w_zero || c.n < kQPanel) return kQFinish_avx2(c, kEpilogue_avx512);
  const QFolded f = c.folded ? *c.folded : q_fold(c);
  const FoldedStore store(f);
  const __m512i start = load64(f.start);
  const int32_t* acc = c.acc;
  uint8_t* y = static_cast<uint8_t*>(c.y);
  const int64_t ld = c.ld, ldy = c.ldy;
  const auto sum = [&](int64_t i)
                       __attribute__((always_inline)) { return _mm512_add_epi32(load64(acc + i * ld), start); };
  int64_t left = c.rows;
  for (; left >= 4; left -= 4, acc += 4 * ld, y += 4 * ldy) store({sum(0), sum(1), sum(2), sum(3)}, y, ldy);
  for (; left > 0; --left, acc += ld, y += ldy) store({sum(0)}, y, ldy);
}

}  // namespace

extern const QTileTable kQTile_avx512 = {kRows,
                                         true,
                                         {nullptr, tile<1>, tile<2>, tile<3>, tile<4>},
                                         finish,
                                         q_row_sum,
                                         row_of_panels,
                                         weights_in_order,
                                         kWideRows,
                                         {nullptr, nullptr, nullptr, nullptr, nullptr, wide_rows<5>, wide_rows<6>}};

}  // namespace mrt
