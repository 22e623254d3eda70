// matmul_u8, AVX-512 VNNI: tiles of 8 x 16 sums in eight registers; `vpdpwssd` adds the two products of a pair in 32
// bits, exactly.
#include "kernels/qmatmul/widen.h"

namespace mrt {
namespace {

constexpr int kRows = 8;

template <int MR>
MRT_INLINE void tile_body(const int16_t* a, int64_t lda, int64_t pairs, const int16_t* panel, int32_t* acc) {
  __m512i sum[MR];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) sum[i] = _mm512_setzero_si512();
  for (int64_t p = 0; p < pairs; ++p, a += 2, panel += 2 * kPairPanel) {
    const __m512i w = _mm512_loadu_si512(panel);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      int32_t two;
      std::memcpy(&two, a + i * lda, sizeof(two));
      sum[i] = _mm512_dpwssd_epi32(sum[i], _mm512_set1_epi32(two), w);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) _mm512_storeu_si512(acc + i * kPairPanel, sum[i]);
}

void tile(const int16_t* a, int64_t lda, int64_t rows, int64_t pairs, const int16_t* panel, int32_t* acc) {
  if (rows == kRows) return tile_body<kRows>(a, lda, pairs, panel, acc);
  for (; rows >= 4; rows -= 4, a += 4 * lda, acc += 4 * kPairPanel) tile_body<4>(a, lda, pairs, panel, acc);
  for (; rows > 0; --rows, a += lda, acc += kPairPanel) tile_body<1>(a, lda, pairs, panel, acc);
}

}  // namespace

const QMatmulKernel kQMatmul_avx512 = {kRows, widen, pack, tile};

}  // namespace mrt
