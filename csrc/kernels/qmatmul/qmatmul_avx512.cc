// matmul_u8, AVX-512 VNNI: of few rows tiles of 8 x 16 sums in eight registers; `vpdpwssd` adds the two products of a
// pair in 32 bits, exactly. Others take the tiles of qgemm/wide_avx512.h.
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

// Four rows of 16 bytes as groups: four columns of all rows to each quarter, and there the columns one by one.
void pack_bytes(const uint8_t* b, int64_t k, int64_t ldb, int64_t columns, int8_t* out, int32_t* sums) {
  const __m512i quarter = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i column = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m512i ones = _mm512_set1_epi8(1), half = _mm512_set1_epi8(-128);
  const __mmask16 there = static_cast<__mmask16>((1 << columns) - 1);
  const auto row = [&](int64_t i) __attribute__((always_inline)) { return _mm_maskz_loadu_epi8(there, b + i * ldb); };
  __m512i sum = _mm512_setzero_si512();
  __mmask64 kept = ~__mmask64{0};
  for (int64_t d = 0; d < k; d += 4, out += 64) {
    if (d + 4 > k) {  // those before the last k % 4 are there already
      kept = static_cast<__mmask64>(0x1111111111111111u * (0xf & 0xf << (4 - k % 4)));
      d = k - 4;
    }
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(row(d)), row(d + 1), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(row(d + 2)), row(d + 3), 1);
    const __m512i four = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    const __m512i signed_four = _mm512_permutexvar_epi32(quarter, _mm512_xor_si512(four, half));
    const __m512i groups = _mm512_maskz_shuffle_epi8(kept, signed_four, column);
    sum = _mm512_dpbusd_epi32(sum, ones, groups);
    _mm512_storeu_si512(out, groups);
  }
  _mm512_storeu_si512(sums, sum);
}

void start(const int32_t* of_row, int64_t rows, const int32_t* of_column, int64_t panels, int32_t* acc) {
  for (; panels > 0; --panels, of_column += kPairPanel) {
    const __m512i column = _mm512_loadu_si512(of_column);
    for (int64_t i = 0; i < rows; ++i, acc += kPairPanel) {
      _mm512_storeu_si512(acc, _mm512_add_epi32(column, _mm512_set1_epi32(of_row[i])));
    }
  }
}

}  // namespace

const QMatmulKernel kQMatmul_avx512 = {kRows, widen, pack, tile, pack_bytes, start};

}  // namespace mrt
