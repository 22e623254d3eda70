// The finish of sums in registers with AVX-512; see QFolded. Included by one file per family.
#pragma once

#include "kernels/qgemm/tile.h"
#include "simd/vec.h"

namespace mrt {
namespace {

// Bytes of rows of 16 sums, which began with f.start. Rounding keeps the order of numbers, so the lower bound is met
// after it, in 16 bits, two rows at a time; the upper one before it, since what is too large for an integer would
// become the smallest one.
class FoldedStore {
 public:
  MRT_INLINE explicit FoldedStore(const QFolded& f)
      : scale_(_mm512_loadu_ps(f.scale)),
        bias_(_mm512_loadu_ps(f.bias)),
        hi_(_mm512_set1_ps(f.hi)),
        zero_(_mm512_set1_epi16(static_cast<int16_t>(f.zero))),
        lo_(_mm512_broadcastw_epi16(
            _mm_cvtsi32_si128(_mm_cvtss_si32(_mm_set_ss(f.lo < f.hi ? f.lo : f.hi)) + f.zero))) {}

  template <int MR>
  MRT_INLINE void operator()(const __m512i (&acc)[MR], uint8_t* y, int64_t ldy) const {
#pragma GCC unroll 8
    for (int i = 0; i < MR; i += 4) {
      const __m512i a = two(acc[i], acc[i + 1 < MR ? i + 1 : i]);
      const __m512i b = i + 2 < MR ? two(acc[i + 2], acc[i + 3 < MR ? i + 3 : i + 2]) : a;
      // Packing works within quarters: each has four columns of four rows.
      const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
      const __m512i rows = _mm512_permutexvar_epi32(order, _mm512_packus_epi16(a, b));
      store(y + i * ldy, _mm512_castsi512_si128(rows));
      if (i + 1 < MR) store(y + (i + 1) * ldy, _mm512_extracti32x4_epi32(rows, 1));
      if (i + 2 < MR) store(y + (i + 2) * ldy, _mm512_extracti32x4_epi32(rows, 2));
      if (i + 3 < MR) store(y + (i + 3) * ldy, _mm512_extracti32x4_epi32(rows, 3));
    }
  }

 private:
  static MRT_INLINE void store(uint8_t* y, __m128i x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(y), x); }
  MRT_INLINE __m512i rounded(__m512i sum) const {
    const __m512 x = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale_), bias_);
    return _mm512_cvtps_epi32(_mm512_min_ps(hi_, x));  // a NaN stays one and becomes the smallest integer
  }
  // The low bytes of two rows, in 16 bits.
  MRT_INLINE __m512i two(__m512i first, __m512i second) const {
    const __m512i q = _mm512_adds_epi16(_mm512_packs_epi32(rounded(first), rounded(second)), zero_);
    return _mm512_and_si512(_mm512_max_epi16(q, lo_), _mm512_set1_epi16(255));
  }

  __m512 scale_, bias_, hi_;
  __m512i zero_, lo_;
};

}  // namespace
}  // namespace mrt
