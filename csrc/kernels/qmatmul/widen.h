// What the AVX2 kernel and those of wider instruction sets share: both operands as 16-bit numbers. Included by one file
// per ISA.
#pragma once

#include <cstring>

#include "kernels/qmatmul/qmatmul_kernels.h"
#include "simd/vec.h"

namespace mrt {
namespace {

constexpr int kBytes = 16;

// 16 bytes as 16-bit integers less the zero point.
MRT_INLINE __m256i widened(const uint8_t* x, __m256i zero) {
  return _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x))), zero);
}

void widen(const uint8_t* x, int64_t n, int32_t zero, int16_t* out) {
  const __m256i offset = _mm256_set1_epi16(static_cast<int16_t>(zero));
  int64_t i = 0;
  for (; i + kBytes <= n; i += kBytes) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), widened(x + i, offset));
  for (; i < n; ++i) out[i] = static_cast<int16_t>(x[i] - zero);
  if (n % 2 != 0) out[n] = 0;
}

// Two rows of b, 16 columns of them, as pairs.
MRT_INLINE void store_pairs(__m256i first, __m256i second, int16_t* out) {
  const __m256i low = _mm256_unpacklo_epi16(first, second), high = _mm256_unpackhi_epi16(first, second);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(low, high, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + kPairPanel), _mm256_permute2x128_si256(low, high, 0x31));
}

void pack(const uint8_t* b, int64_t k, int64_t ldb, int64_t columns, int32_t zero, int16_t* out) {
  const __m256i offset = _mm256_set1_epi16(static_cast<int16_t>(zero)), nothing = _mm256_setzero_si256();
  uint8_t rows[2][kBytes];
  std::memset(rows, zero, sizeof(rows));
  for (int64_t d = 0; d < k; d += 2, b += 2 * ldb, out += 2 * kPairPanel) {
    const uint8_t *first = b, *second = b + (d + 1 < k ? ldb : 0);
    if (columns < kPairPanel) {
      std::memcpy(rows[0], first, static_cast<size_t>(columns));
      std::memcpy(rows[1], second, static_cast<size_t>(columns));
      first = rows[0];
      second = rows[1];
    }
    store_pairs(widened(first, offset), d + 1 < k ? widened(second, offset) : nothing, out);
  }
}

}  // namespace
}  // namespace mrt
