// Tiles of 5 or 6 rows by two or four panels with AVX-512 VNNI: a broadcast of four bytes of a row meets the weights of
// every panel, so that of 24 products 10 operands are loaded, where a tile of 8 x 16 loads 9 for 8 and is bound by
// that. Weights stand with their k's in order. Included by tile_avx512.cc.
#pragma once

#include "kernels/qgemm/finish_generic.h"

namespace mrt {
namespace {

constexpr int kWideRows = 6;
constexpr int64_t kShallow = 12;  // groups; measured on Zen 5

#if __has_attribute(noclone)
#define MRT_ONE_COPY __attribute__((noinline, noclone))
#else
#define MRT_ONE_COPY __attribute__((noinline))
#endif

// Adds groups to sums, `panel_bytes` of weights apart; each group fetches `step` bytes from `fetch` on.
template <int MR, int NP>
MRT_INLINE void wide_groups(const uint8_t* const (&row)[MR], int64_t groups, const int8_t* w, int64_t panel_bytes,
                            const char* fetch, int64_t step, __m512i (&acc)[NP][MR]) {
  for (int64_t g = 0; g < groups; ++g, w += kQPanel * kQGroup, fetch += step) {
    __builtin_prefetch(fetch);
    __m512i weights[NP];
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) weights[p] = _mm512_loadu_si512(w + p * panel_bytes);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      const __m512i bytes = _mm512_set1_epi32(four_bytes(row[i] + g * kQGroup));
#pragma GCC unroll 4
      for (int p = 0; p < NP; ++p) acc[p][i] = _mm512_dpbusd_epi32(acc[p][i], bytes, weights[p]);
    }
  }
}

// 16 bytes as integers; those that are not of the mask are not read, and 0.
MRT_INLINE __m512i widened(const uint8_t* bytes, __mmask16 there) {
  struct Bytes {
    uint8_t b[kQPanel];
  };
  __m512i wide;
  __asm__("vpmovzxbd %1, %0%{%2%}%{z%}" : "=v"(wide) : "m"(*reinterpret_cast<const Bytes*>(bytes)), "Yk"(there));
  return wide;
}

// What rows of bytes are finished with, of all panels of a call: vectors that instructions read where they lie, since
// the registers are full of sums. All that are rounded fit in 32 bits (QFolded::fits), so that bounds are met in 8.
struct WideFinish {
  __m512 scale[kQMaxPanels], bias[kQMaxPanels];
  __m512 lo, hi, of_term, of_residual, offset;  // see QSum::quick
  __m512i zero, least, most, flip, order;
  __mmask64 there;  // columns that do not exist are those of the next row, perhaps another thread's
  __mmask16 of_panel[kQMaxPanels];

  MRT_ONE_COPY WideFinish(const QFolded* folded, int64_t panels) {
    const QFolded& f = folded[0];
    const QSum none{}, &sum = f.sum ? *f.sum : none;
    const int64_t columns = (panels - 1) * kQPanel + folded[panels - 1].columns;
    there = columns > 0 ? ~__mmask64{0} >> (64 - columns) : 0;  // 0: there is no finish
    for (int p = 0; p < static_cast<int>(kQMaxPanels); ++p) {
      scale[p] = _mm512_loadu_ps(folded[p < panels ? p : 0].scale);
      bias[p] = _mm512_loadu_ps(folded[p < panels ? p : 0].bias);
      of_panel[p] = static_cast<__mmask16>(there >> p * kQPanel);
    }
    lo = _mm512_set1_ps(f.lo);
    hi = _mm512_set1_ps(f.hi);
    of_term = _mm512_set1_ps(sum.of_term);
    of_residual = _mm512_set1_ps(sum.of_residual);
    offset = _mm512_set1_ps(sum.offset);
    const int sign = f.is_signed ? 128 : 0;  // bytes with a sign are made as such without one
    const float low = f.sum ? f.sum_lo : f.lo < f.hi ? f.lo : f.hi, high = f.sum ? f.sum_hi : f.hi;
    const auto byte = [&](float x) {
      return _mm512_broadcastb_epi8(_mm_cvtsi32_si128(_mm_cvtss_si32(_mm_set_ss(x)) + f.zero + sign));
    };
    zero = _mm512_set1_epi16(static_cast<int16_t>(f.zero + sign));
    least = byte(low);
    most = byte(high);
    flip = _mm512_set1_epi8(static_cast<char>(sign));
    order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  }

  MRT_INLINE __m512i two(__m512i a, __m512i b) const { return _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero); }

  // One row of all panels, sums `step` apart; see FoldedStore, and with kSum QSum.
  template <int NP, bool kSum>
  MRT_INLINE void row(const __m512i* sums, int64_t step, const uint8_t* bytes, uint8_t* y) const {
    __m512i sum[NP];
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) sum[p] = _mm512_load_si512(sums + p * step);
    row<NP, kSum>(sum, bytes, y);
  }
  template <int NP, bool kSum>
  MRT_INLINE void row(const __m512i (&sum)[NP], const uint8_t* bytes, uint8_t* y) const {
    __m512i q[NP];
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) {
      __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[p]), scale[p]);
      x = _mm512_add_ps(x, bias[p]);
      if (kSum) {
        const __m512 term = _mm512_roundscale_ps(_mm512_min_ps(_mm512_max_ps(x, lo), hi),
                                                 _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        const __m512 residual = _mm512_cvtepi32_ps(widened(bytes + p * kQPanel, of_panel[p]));
        x = _mm512_fmadd_ps(term, of_term, _mm512_fmadd_ps(residual, of_residual, offset));
      }
      q[p] = _mm512_cvtps_epi32(x);
    }
    const __m512i a = two(q[0], q[NP > 1]), b = NP == 4 ? two(q[NP - 2], q[NP - 1]) : a;
    __m512i packed = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(a, b));
    packed = _mm512_xor_si512(_mm512_min_epu8(_mm512_max_epu8(packed, least), most), flip);
    if (of_panel[NP - 1] != 0xffff) {
      _mm512_mask_storeu_epi8(y, there, packed);
    } else if (NP == 4) {
      _mm512_storeu_si512(y, packed);
    } else if (NP == 2) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), _mm512_castsi512_si256(packed));
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm512_castsi512_si128(packed));
    }
  }
};

// The few kinds of bytes that WideFinish does not make: rows of a tile whose sums are complete.
MRT_ONE_COPY void wide_bytes(const QTileCall& c, const __m512i* sums, int64_t rows, int64_t row) {
  for (int64_t p = 0; p < c.panels; ++p) {
    const QFolded& f = c.folded[p];
    const __mmask16 there = static_cast<__mmask16>((1 << f.columns) - 1);
    const __m512 lo = _mm512_set1_ps(f.lo), hi = _mm512_set1_ps(f.hi);
    for (int64_t i = 0; i < rows; ++i, ++sums) {
      __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), _mm512_loadu_ps(f.scale));
      x = _mm512_min_ps(hi, _mm512_max_ps(_mm512_add_ps(x, _mm512_loadu_ps(f.bias)), lo));  // of a NaN lo
      if (f.sum) {
        const __m512i wide = widened(c.bytes + (row + i) * c.ldr + p * kQPanel, there);
        const __m512 residual = _mm512_cvtepi32_ps(_mm512_sub_epi32(wide, _mm512_set1_epi32(f.sum->residual_zero)));
        x = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        x = _mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(f.sum->scale)),
                          _mm512_mul_ps(residual, _mm512_set1_ps(f.sum->residual_scale)));
        x = _mm512_max_ps(_mm512_div_ps(x, _mm512_set1_ps(f.sum->y_scale)), _mm512_set1_ps(f.sum_lo));
        x = _mm512_min_ps(x, _mm512_set1_ps(f.sum_hi));
      }
      const __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(f.zero));
      _mm_mask_storeu_epi8(c.y + (row + i) * c.ldy + p * kQPanel, there, _mm512_cvtepi32_epi8(q));
    }
  }
}

MRT_ONE_COPY void wide_floats(const QTileCall& c, const __m512i* sums, int64_t rows, int64_t row) {
  for (int64_t p = 0; p < c.panels; ++p) {
    for (int64_t i = 0; i < rows; ++i, ++sums) {
      uint8_t* const y = c.y + (row + i) * c.ldy + p * kQPanel * static_cast<int64_t>(sizeof(float));
      const float* const r = c.residual ? c.residual + (row + i) * c.ldr + p * kQPanel : nullptr;
      store_floats<F32x16, 1>(c.folded[p], y, 0, r, 0, [&](int, int) { return I32x16{_mm512_load_si512(sums)}; });
    }
  }
}

alignas(64) constexpr int32_t kNothing[kQPanel] = {};

// Rows of bytes are finished while the next tile's products are under way, one after every few groups: what turns sums
// into bytes takes other units of a core than products do, and so few operations fit in its window that it would not
// find them by itself. Products so shallow that it does are finished at once, with all that takes in registers.
template <int MR, int NP, bool kSum>
void wide_tiles(const QTileCall& call) {
  const QTileCall c = call;  // of our own: what is stored through y could be anything, and all would be read again
  const char* fetch = c.fetch;
  const int64_t groups = c.g1 - c.g0;
  const bool to_bytes = kSum || (c.folded && !c.folded->floats && !c.folded->sum && c.folded->fits);
  constexpr bool kAtOnce = !kSum && MR == kWideRows;  // few tiles are lower
  const bool at_once = kAtOnce && to_bytes && c.taps * groups <= kShallow;
  const QFolded nothing = {};
  const WideFinish made(to_bytes ? c.folded : &nothing, to_bytes ? c.panels : 1);
  const WideFinish finish = made;  // that nobody has the address of, so that no byte that is stored could change it
  alignas(64) __m512i complete[NP * MR];
  for (int64_t t = 0; t < c.tiles + (to_bytes && !at_once); ++t) {
    const bool products = t < c.tiles;  // else only the last tile's bytes are left
    // What sums begin with: one way for all, since registers of so many sums take much code.
    int32_t* const sums = c.acc + t * MR * kQPanel;
    const int32_t* from = sums;
    int64_t from_panel = c.panel_sums, from_row = kQPanel;
    if (c.first || !products) {
      from = c.folded_start ? c.folded_start->start : kNothing;
      from_panel = c.folded_start && c.panels > 1 ? static_cast<int64_t>(sizeof(QFolded) / sizeof(int32_t)) : 0;
      from_row = 0;
    }
    __m512i acc[NP][MR];
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) {
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) acc[p][i] = _mm512_loadu_si512(from + p * from_panel + i * from_row);
    }
    const uint8_t* const* const a = c.a + (products ? t : 0) * c.tile_pointers;
    uint8_t* y = c.y + (t - 1) * MR * c.ldy;
    const uint8_t* bytes = kSum ? c.bytes + (t - 1) * MR * c.ldr : nullptr;
    int64_t finished = to_bytes && !at_once && t > 0 ? 0 : MR;  // rows of the tile before
    for (int64_t tap = 0; tap < c.taps; ++tap) {
      const int8_t* w = c.w + tap * c.tap_bytes + c.g0 * (kQPanel * kQGroup);
      int64_t offset = c.a_offset + c.g0 * kQGroup, left = products ? groups : 0;
      // The kc % 4 bytes at the end are a group like others, from kc - 4 on.
      for (bool tail = c.tail && products;; tail = false, left = 1, offset = c.a_offset + c.kc - kQGroup) {
        const uint8_t* row[MR];
#pragma GCC unroll 8
        for (int i = 0; i < MR; ++i) row[i] = a[tap * MR + i] + offset;
        do {
          const int64_t count = finished < MR ? (left + MR - finished - 1) / (MR - finished) : left;
          wide_groups<MR, NP>(row, count, w, c.panel_bytes, fetch, c.fetch_step, acc);
          fetch += count * c.fetch_step;
          w += count * (kQPanel * kQGroup);
          left -= count;
#pragma GCC unroll 8
          for (int i = 0; i < MR; ++i) row[i] += count * kQGroup;
          if (finished < MR) {
            finish.row<NP, kSum>(complete + finished, MR, bytes, y);
            y += c.ldy;
            bytes += kSum ? c.ldr : 0;
            ++finished;
          }
        } while (left > 0 || finished < MR);
        if (!tail) break;
      }
      if (!products) break;
    }
    if (!products) break;
    if (at_once) {
      y += MR * c.ldy;
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i, y += c.ldy) {
        __m512i sum[NP];
#pragma GCC unroll 4
        for (int p = 0; p < NP; ++p) sum[p] = acc[p][i];
        finish.row<NP, kSum>(sum, nullptr, y);
      }
      continue;
    }
    int32_t* const to = c.folded ? reinterpret_cast<int32_t*>(complete) : sums;
    const int64_t to_panel = c.folded ? MR * kQPanel : c.panel_sums;
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) {
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) _mm512_storeu_si512(to + p * to_panel + i * kQPanel, acc[p][i]);
    }
    if (!to_bytes && c.folded) (c.folded->floats ? wide_floats : wide_bytes)(c, complete, MR, t * MR);
  }
}

MRT_INLINE bool is_quick(const QFolded& f) {
  return f.fits && f.sum->quick && f.sum_lo >= f.sum->least && f.sum_hi <= f.sum->most;
}

template <int MR, int NP>
MRT_INLINE void wide_kind(const QTileCall& c) {
  if (c.folded && c.folded->sum && is_quick(*c.folded)) return wide_tiles<MR, NP, true>(c);
  wide_tiles<MR, NP, false>(c);
}

// One panel is done alone where that is common; else twice, and what the second would be is stored nowhere.
template <int MR>
void wide_rows(const QTileCall& c) {
  if (MR == kWideRows && c.panels == 1 && !(c.folded && c.folded->sum)) return wide_tiles<kWideRows, 1, false>(c);
  if (c.panels <= 2) return wide_kind<MR, 2>(c);
  wide_kind<MR, 4>(c);
}

}  // namespace
}  // namespace mrt
