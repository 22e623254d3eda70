// lookup, AVX2: 32 bytes at a time, in sixteen steps of vpshufb, each with 16 entries of the table.
//
// vpshufb gives 0 where its index has bit 7 and else looks at the low four bits. Step i looks at x - 16 i: every step
// up to the one that x belongs to gives something, and later ones, where the difference is negative, give 0. So the
// steps hold not the table but the exclusive or of neighbouring parts, and what they give is summed up by exclusive or.
// An x of 128 and more has bit 7 itself until seven steps before its own: what those eight steps would have given is
// put into the parts 8 to 15. The differences wrap around up to step 8, by which every x has come below 128, and
// saturate after that. The method is XNNPACK's (x8-lut).
#include <cstring>

#include "kernels/lookup/lookup_kernels.h"
#include "simd/vec.h"

namespace mrt {
namespace {

constexpr int kParts = 16, kVector = 32;

MRT_INLINE __m256i look_up(const __m256i* parts, __m256i x) {
  const __m256i step = _mm256_set1_epi8(16);
  __m256i y = _mm256_shuffle_epi8(parts[0], x);
#pragma GCC unroll 8
  for (int i = 1; i <= 8; ++i) {
    x = _mm256_sub_epi8(x, step);
    y = _mm256_xor_si256(y, _mm256_shuffle_epi8(parts[i], x));
  }
#pragma GCC unroll 8
  for (int i = 9; i < kParts; ++i) {
    x = _mm256_subs_epi8(x, step);
    y = _mm256_xor_si256(y, _mm256_shuffle_epi8(parts[i], x));
  }
  return y;
}

void run(const uint8_t* table, const uint8_t* x, int64_t n, uint8_t* y) {
  __m256i parts[kParts], before = _mm256_setzero_si256();
  for (int i = 0; i < kParts; ++i) {
    const __m256i part = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * i)));
    parts[i] = _mm256_xor_si256(part, before);
    if (i >= 8) parts[i] = _mm256_xor_si256(parts[i], parts[i - 8]);
    before = part;
  }
  int64_t i = 0;
  for (; i + kVector <= n; i += kVector) {
    const __m256i from = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + i), look_up(parts, from));
  }
  for (; i < n; ++i) y[i] = table[x[i]];
}

}  // namespace

const LookupKernel kLookup_avx2 = {run};

}  // namespace mrt
