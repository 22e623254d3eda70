// lookup, AVX-512: 64 bytes at a time. The table lies in four registers as 128 pairs of entries; `vpermi2w` finds the
// pairs of the even bytes and those of the odd ones, by bits 1 to 6, and masks of bits 7 and 0 say which half of the
// table and of the pair is meant.
#include "kernels/lookup/lookup_kernels.h"
#include "simd/vec.h"

namespace mrt {
namespace {

constexpr int kVector = 64;

struct Table {
  __m512i pairs[4];

  // Of the byte of each 16 bits whose bit 1 `index` has lowest and whose bit 7 `half` is.
  MRT_INLINE __m512i pair(__m512i x, __m512i index, __m512i half) const {
    const __m512i low = _mm512_permutex2var_epi16(pairs[0], index, pairs[1]);
    const __m512i high = _mm512_permutex2var_epi16(pairs[2], index, pairs[3]);
    return _mm512_mask_mov_epi16(low, _mm512_test_epi16_mask(x, half), high);
  }

  MRT_INLINE __m512i operator()(__m512i x) const {
    __m512i even = pair(x, _mm512_srli_epi16(x, 1), _mm512_set1_epi16(0x80));
    __m512i odd = pair(x, _mm512_srli_epi16(x, 9), _mm512_set1_epi16(static_cast<int16_t>(0x8000)));
    even = _mm512_mask_srli_epi16(even, _mm512_test_epi16_mask(x, _mm512_set1_epi16(1)), even, 8);
    odd = _mm512_mask_slli_epi16(odd, _mm512_testn_epi16_mask(x, _mm512_set1_epi16(0x100)), odd, 8);
    return _mm512_mask_mov_epi8(even, 0xaaaaaaaaaaaaaaaau, odd);
  }
};

void run(const uint8_t* table, const uint8_t* x, int64_t n, uint8_t* y) {
  Table of;
  for (int i = 0; i < 4; ++i) of.pairs[i] = _mm512_loadu_si512(table + i * kVector);
  for (; n >= kVector; n -= kVector, x += kVector, y += kVector) _mm512_storeu_si512(y, of(_mm512_loadu_si512(x)));
  if (n == 0) return;
  const __mmask64 there = ~__mmask64{0} >> (kVector - n);
  _mm512_mask_storeu_epi8(y, there, of(_mm512_maskz_loadu_epi8(there, x)));
}

}  // namespace

const LookupKernel kLookup_avx512 = {run};

}  // namespace mrt
