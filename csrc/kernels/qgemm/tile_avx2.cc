// Tiles of 4 x 16 with AVX2: 8 accumulators, and the weights of a group in two (wide: four) registers.
#include "kernels/qgemm/finish_generic.h"

namespace mrt {
namespace {

constexpr int kRows = 4;

MRT_INLINE __m256i broadcast4(const uint8_t* p) { return _mm256_set1_epi32(four_bytes(p)); }
MRT_INLINE __m256i load32(const int8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

MRT_INLINE __m256i load_sums(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
MRT_INLINE __m256i load16_twice(const uint8_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// Two groups whose sums of four products fit in 16 bits. `k` is where they are in the row; where their window is
// ordered, it is the beginning of the window, and `order` says what to take from it.
template <int MR, bool kOrdered>
MRT_INLINE void step_double(const uint8_t* const (&row)[MR], int64_t k, const int8_t* w, const QOrder* order,
                            __m256i (&acc)[MR][2]) {
  const __m256i one = _mm256_set1_epi16(1);
  const __m256i m0 = kOrdered ? broadcast4(order[0].k) : one, m1 = kOrdered ? broadcast4(order[1].k) : one;
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    __m256i x, y;
    if (kOrdered) {
      const __m256i window = load16_twice(row[i] + k);
      x = _mm256_shuffle_epi8(window, m0);
      y = _mm256_shuffle_epi8(window, m1);
    } else {
      x = broadcast4(row[i] + k);
      y = broadcast4(row[i] + k + kQGroup);
    }
    const __m256i s0 = _mm256_add_epi16(_mm256_maddubs_epi16(x, load32(w)), _mm256_maddubs_epi16(y, load32(w + 64)));
    const __m256i s1 =
        _mm256_add_epi16(_mm256_maddubs_epi16(x, load32(w + 32)), _mm256_maddubs_epi16(y, load32(w + 96)));
    acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(s0, one));
    acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(s1, one));
  }
}

// One group whose sums of two products do; ordered: its window begins at `k`.
template <int MR, bool kOrdered>
MRT_INLINE void step_single(const uint8_t* const (&row)[MR], int64_t k, const int8_t* w, const QOrder* order,
                            __m256i (&acc)[MR][2]) {
  const __m256i one = _mm256_set1_epi16(1);
  const __m256i w0 = load32(w), w1 = load32(w + 32), m = kOrdered ? broadcast4(order->k) : one;
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    const __m256i x = kOrdered ? _mm256_shuffle_epi8(load16_twice(row[i] + k), m) : broadcast4(row[i] + k);
    acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_madd_epi16(_mm256_maddubs_epi16(x, w0), one));
    acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_madd_epi16(_mm256_maddubs_epi16(x, w1), one));
  }
}

// Even and odd bytes as 16-bit numbers of their own; two products add up in 32 bits.
template <int MR, typename Load>
MRT_INLINE void step_wide(const int8_t* w, __m256i (&acc)[MR][2], Load load) {
  const __m256i low = _mm256_set1_epi16(255);
  const __m256i w0 = load32(w), w1 = load32(w + 32);
  const __m256i e0 = _mm256_srai_epi16(_mm256_slli_epi16(w0, 8), 8), o0 = _mm256_srai_epi16(w0, 8);
  const __m256i e1 = _mm256_srai_epi16(_mm256_slli_epi16(w1, 8), 8), o1 = _mm256_srai_epi16(w1, 8);
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    const __m256i x = load(i), e = _mm256_and_si256(x, low), o = _mm256_srli_epi16(x, 8);
    acc[i][0] = _mm256_add_epi32(acc[i][0], _mm256_add_epi32(_mm256_madd_epi16(e, e0), _mm256_madd_epi16(o, o0)));
    acc[i][1] = _mm256_add_epi32(acc[i][1], _mm256_add_epi32(_mm256_madd_epi16(e, e1), _mm256_madd_epi16(o, o1)));
  }
}

// The first `count` bits set.
MRT_INLINE uint64_t low_bits(int64_t count) { return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

// Calls step(g) for each bit g that is set.
template <typename Step>
MRT_INLINE void for_each(uint64_t bits, Step step) {
  for (; bits != 0; bits &= bits - 1) step(static_cast<int64_t>(__builtin_ctzll(bits)));
}

// The groups of a segment by kind, a bit each; those in none of these are single or wide.
struct Kinds {
  uint64_t all, ordered, plain, pairs;  // `plain` and `pairs`, at even groups: doubled, the latter ordered
  Kinds(QMasks masks, int64_t groups) : all(low_bits(groups)) {
    const uint64_t doubled = masks.doubled & kQEven & (all >> 1);
    ordered = (masks.ordered & kQFirst & (all >> (kQWindow - 1))) * 15;  // a bit for each group
    plain = doubled & ~ordered;
    pairs = doubled & ordered;
  }
  // All is doubled as it stands, or through the orders of its windows, all of them whole; of one that is not ordered
  // that is the order that it has.
  bool all_plain() const { return plain * 3 == all; }
  bool all_ordered() const { return (plain | pairs) * 3 == all && (all & kQFirst) * 15 == all; }
};

template <int MR, bool kOrdered>
MRT_INLINE void all_doubled(const uint8_t* const (&row)[MR], int64_t k0, int64_t groups, const int8_t* w,
                            const QOrder* orders, __m256i (&acc)[MR][2]) {
  for (int64_t g = 0; g < groups; g += 2) {
    const int64_t at = kOrdered ? g & -kQWindow : g;
    step_double<MR, kOrdered>(row, k0 + at * kQGroup, w + g * 64, orders + g, acc);
  }
}

// One segment: where all is doubled, one loop without a search for bits; else the groups of each kind in turn.
template <int MR>
MRT_INLINE void segment(const uint8_t* const (&row)[MR], int64_t k0, int64_t groups, const int8_t* w, QMasks masks,
                        const QOrder* orders, __m256i (&acc)[MR][2]) {
  const Kinds kinds(masks, groups);
  if (kinds.all_plain()) return all_doubled<MR, false>(row, k0, groups, w, orders, acc);
  if (kinds.all_ordered()) return all_doubled<MR, true>(row, k0, groups, w, orders, acc);
  const auto k_of = [&](int64_t g) { return k0 + g * kQGroup; };
  const auto window_of = [&](int64_t g) { return k0 + (g & -kQWindow) * kQGroup; };
  const uint64_t alone = kinds.all & ~((kinds.plain | kinds.pairs) * 3);
  for_each(kinds.plain, [&](int64_t g) { step_double<MR, false>(row, k_of(g), w + g * 64, orders, acc); });
  for_each(kinds.pairs, [&](int64_t g) { step_double<MR, true>(row, window_of(g), w + g * 64, orders + g, acc); });
  for_each(alone & ~kinds.ordered & ~masks.wide,
           [&](int64_t g) { step_single<MR, false>(row, k_of(g), w + g * 64, orders, acc); });
  for_each(alone & kinds.ordered,
           [&](int64_t g) { step_single<MR, true>(row, window_of(g), w + g * 64, orders + g, acc); });
  for_each(alone & ~kinds.ordered & masks.wide,
           [&](int64_t g) { step_wide<MR>(w + g * 64, acc, [&](int i) { return broadcast4(row[i] + k_of(g)); }); });
}

// Sums, which began with f.start, to bytes; two rows at a time.
template <int MR>
MRT_INLINE void store_folded(const QFolded& f, uint8_t* y, int64_t ldy, const __m256i (&acc)[MR][2]) {
  const __m256 lo = _mm256_set1_ps(f.lo), hi = _mm256_set1_ps(f.hi);
  const __m256i zero = _mm256_set1_epi16(static_cast<int16_t>(f.zero)), low = _mm256_set1_epi16(255);
  const auto row = [&](int i) {
    __m256i q[2];
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256 sum = _mm256_cvtepi32_ps(acc[i][j]);
      const __m256 x =
          _mm256_add_ps(_mm256_mul_ps(sum, _mm256_load_ps(f.scale + 8 * j)), _mm256_load_ps(f.bias + 8 * j));
      q[j] = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(x, lo), hi));
    }
    return _mm256_and_si256(_mm256_add_epi16(_mm256_packs_epi32(q[0], q[1]), zero), low);
  };
  // Packing works within halves of a register: fours of columns 0, 8 of both rows | 4, 12 of both.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
#pragma GCC unroll 8
  for (int i = 0; i < MR; i += 2) {
    const __m256i first = row(i), second = i + 1 < MR ? row(i + 1) : first;
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i * ldy), _mm256_castsi256_si128(bytes));
    if (i + 1 < MR) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(y + (i + 1) * ldy), _mm256_extracti128_si256(bytes, 1));
    }
  }
}

// What a tile's depth is made of.
enum class Depth { any, plain, ordered };  // plain, ordered: one segment of one tap, all of it doubled

template <int MR, Depth kDepth>
MRT_INLINE void one_tile(const QTileCall& c, const uint8_t* const* a, int32_t* sums, uint8_t* y,
                         const float* residual) {
  __m256i acc[MR][2];
  const __m256i start0 = c.folded_start ? load_sums(c.folded_start->start) : _mm256_setzero_si256();
  const __m256i start1 = c.folded_start ? load_sums(c.folded_start->start + 8) : _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    acc[i][0] = start0;
    acc[i][1] = start1;
  }
  for (int64_t t = 0; t < (kDepth == Depth::any ? c.taps : 1); ++t) {
    const uint8_t* row[MR];
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) row[i] = a[t * MR + i] + c.a_offset;
    const int8_t* const w = c.w + t * c.tap_bytes;
    const QOrder* const orders = c.orders + t * c.tap_orders;
    if (kDepth != Depth::any) {
      all_doubled<MR, kDepth == Depth::ordered>(row, c.g0 * kQGroup, c.g1 - c.g0, w + c.g0 * 64, orders + c.g0, acc);
      continue;
    }
    const QMasks* const masks = c.masks + t * c.tap_masks;
    for (int64_t g = c.g0; g < c.g1; g += kQSegment) {
      const int64_t groups = c.g1 - g < kQSegment ? c.g1 - g : kQSegment;
      segment<MR>(row, g * kQGroup, groups, w + g * 64, masks[g / kQSegment], orders + g, acc);
    }
    if (c.tail) {
      step_wide<MR>(w + c.kc / kQGroup * 64, acc, [&](int i) { return _mm256_set1_epi32(tail_bytes(row[i], c.kc)); });
    }
  }
  if (!c.first) {
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      acc[i][0] = _mm256_add_epi32(acc[i][0], load_sums(sums + i * kQPanel));
      acc[i][1] = _mm256_add_epi32(acc[i][1], load_sums(sums + i * kQPanel + 8));
    }
  }
  if (c.folded && c.folded->floats) {
    return store_floats<F32x8, MR>(*c.folded, y, c.ldy, residual, c.ldr,
                                   [&](int i, int j) { return I32x8{acc[i][j]}; });
  }
  if (c.folded) return store_folded<MR>(*c.folded, y, c.ldy, acc);
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i * kQPanel), acc[i][0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i * kQPanel + 8), acc[i][1]);
  }
}

template <int MR, Depth kDepth>
void tiles(const QTileCall& call) {
  const QTileCall c = call;  // of our own: what is stored through y could be anything, and all would be read again
  const char* fetch = c.fetch;
  for (int64_t t = 0; t < c.tiles; ++t) {
    for (const char* const end = fetch + c.tile_fetch(); fetch < end; fetch += 64) __builtin_prefetch(fetch);
    one_tile<MR, kDepth>(c, c.a + t * c.tile_pointers, c.acc + t * MR * kQPanel, c.y + t * MR * c.ldy,
                         c.residual ? c.residual + t * MR * c.ldr : nullptr);
  }
}

template <int MR>
void tile(const QTileCall& c) {
  if (MR == kRows && c.taps == 1 && !c.tail && c.g1 > c.g0 && c.g1 - c.g0 <= kQSegment) {
    const Kinds kinds(c.masks[c.g0 / kQSegment], c.g1 - c.g0);
    if (kinds.all_plain()) return tiles<MR, Depth::plain>(c);
    if (kinds.all_ordered()) return tiles<MR, Depth::ordered>(c);
  }
  tiles<MR, Depth::any>(c);
}

// One row, the weights as 16 bits: exact whatever they are, and nothing to decide. Each window goes through its order,
// which is its own where it is not ordered.
void row_of_panels(const QRowCall& c) {
  const int64_t whole = c.kc / kQGroup, windows = whole / kQWindow;
  const char* packed = c.packed;
  const auto load16 = [](const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); };
  for (int64_t p = 0; p < c.panels; ++p, packed += c.bytes) {
    const int8_t* w = reinterpret_cast<const int8_t*>(packed + c.weights_at);
    const char* orders = packed + c.orders_at;
    __m256i acc[4] = {};  // two sums of each of four columns
    const auto group = [&](__m256i a) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(a, _mm256_cvtepi8_epi16(load16(w + 16 * i))));
      }
      w += 64;
    };
    const auto alone = [&](int32_t bytes) { group(_mm256_cvtepu8_epi16(_mm_set1_epi32(bytes))); };
    for (int64_t v = 0; v < windows; ++v) {
      const __m256i a = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(load16(c.a + v * 16), load16(orders + v * 16)));
      group(_mm256_permute4x64_epi64(a, 0x00));
      group(_mm256_permute4x64_epi64(a, 0x55));
      group(_mm256_permute4x64_epi64(a, 0xaa));
      group(_mm256_permute4x64_epi64(a, 0xff));
    }
    for (int64_t g = windows * kQWindow; g < whole; ++g) alone(four_bytes(c.a + g * kQGroup));
    if (c.kc % kQGroup != 0) alone(tail_bytes(c.a, c.kc));
    // hadd works within halves: columns 0 1 4 5 | 2 3 6 7.
    const __m256i low = _mm256_permute4x64_epi64(_mm256_hadd_epi32(acc[0], acc[1]), 0xd8);
    const __m256i high = _mm256_permute4x64_epi64(_mm256_hadd_epi32(acc[2], acc[3]), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(c.acc + p * kQPanel), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(c.acc + p * kQPanel + 8), high);
  }
}

void finish_with(const QFinishCall& c, const EpilogueTable& activations) { q_finish<F32x8>(c, activations); }
void finish(const QFinishCall& c) { finish_with(c, kEpilogue_avx2); }

}  // namespace

extern const QFinishWith kQFinish_avx2 = finish_with;
extern const QTileTable kQTile_avx2 = {
    kRows,   true, {nullptr, tile<1>, tile<2>, tile<3>, tile<4>}, finish, q_row_sum, row_of_panels, nullptr, 0,
    nullptr, {}};

}  // namespace mrt
