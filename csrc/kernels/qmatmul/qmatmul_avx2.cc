// matmul_u8, AVX2: tiles of 6 x 16 sums in twelve registers, two k's a step.
#include "kernels/qmatmul/widen.h"

namespace mrt {
namespace {

constexpr int kRows = 6;

template <int MR>
MRT_INLINE void tile_body(const int16_t* a, int64_t lda, int64_t pairs, const int16_t* panel, int32_t* acc) {
  __m256i sum[MR][2];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
  for (int64_t p = 0; p < pairs; ++p, a += 2, panel += 2 * kPairPanel) {
    const __m256i w0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel));
    const __m256i w1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + kPairPanel));
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      int32_t two;
      std::memcpy(&two, a + i * lda, sizeof(two));
      const __m256i x = _mm256_set1_epi32(two);
      sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(x, w0));
      sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(x, w1));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + i * kPairPanel), sum[i][0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + i * kPairPanel + 8), sum[i][1]);
  }
}

void tile(const int16_t* a, int64_t lda, int64_t rows, int64_t pairs, const int16_t* panel, int32_t* acc) {
  switch (rows) {
    case 6:
      return tile_body<6>(a, lda, pairs, panel, acc);
    case 5:
      return tile_body<5>(a, lda, pairs, panel, acc);
    case 4:
      return tile_body<4>(a, lda, pairs, panel, acc);
    case 3:
      return tile_body<3>(a, lda, pairs, panel, acc);
    case 2:
      return tile_body<2>(a, lda, pairs, panel, acc);
    default:
      return tile_body<1>(a, lda, pairs, panel, acc);
  }
}

}  // namespace

const QMatmulKernel kQMatmul_avx2 = {kRows, widen, pack, tile, nullptr, nullptr};

}  // namespace mrt
