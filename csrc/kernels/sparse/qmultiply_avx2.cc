// 16 columns: eight sums; two entries are four vectors of columns, and a broadcast of weights at a time.
#include "kernels/sparse/qmultiply_generic.h"

namespace mrt {
namespace {

struct Sums {
  static constexpr int width = 8;
  __m256i v;
  static MRT_INLINE Sums start(const int32_t* p) { return {_mm256_set1_epi32(*p)}; }
  static MRT_INLINE Sums load(const int32_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  MRT_INLINE void store(int32_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
};

MRT_INLINE __m256i broadcast(const int8_t* w) { return _mm256_set1_epi32(four_bytes(w)); }

template <int NV>
MRT_INLINE void load_columns(const uint8_t* x, uint8_t index, __m256i (&out)[NV]) {
  const uint8_t* const from = x + static_cast<size_t>(index) * (NV * 32);
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) out[j] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32 * j));
}

template <int NV>
MRT_INLINE void add_two(const uint8_t* x, const uint8_t* index, const int8_t* w, Sums (&acc)[4][NV]) {
  const __m256i one = _mm256_set1_epi16(1);
  __m256i a[NV], b[NV];
  load_columns<NV>(x, index[0], a);
  load_columns<NV>(x, index[1], b);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256i u = broadcast(w + 4 * i), v = broadcast(w + 16 + 4 * i);
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const __m256i sum = _mm256_add_epi16(_mm256_maddubs_epi16(a[j], u), _mm256_maddubs_epi16(b[j], v));
      acc[i][j].v = _mm256_add_epi32(acc[i][j].v, _mm256_madd_epi16(sum, one));
    }
  }
}

template <int NV>
MRT_INLINE void add_single(const uint8_t* x, uint8_t index, const int8_t* w, Sums (&acc)[4][NV]) {
  const __m256i one = _mm256_set1_epi16(1);
  __m256i a[NV];
  load_columns<NV>(x, index, a);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256i u = broadcast(w + 4 * i);
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      acc[i][j].v = _mm256_add_epi32(acc[i][j].v, _mm256_madd_epi16(_mm256_maddubs_epi16(a[j], u), one));
  }
}

// Even and odd bytes as 16-bit numbers of their own; two products add up in 32 bits.
template <int NV>
MRT_INLINE void add_wide(const uint8_t* x, uint8_t index, const int8_t* w, Sums (&acc)[4][NV]) {
  const __m256i low = _mm256_set1_epi16(255);
  __m256i a[NV];
  load_columns<NV>(x, index, a);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256i u = broadcast(w + 4 * i);
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(u, 8), 8), odd = _mm256_srai_epi16(u, 8);
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const __m256i e = _mm256_madd_epi16(_mm256_and_si256(a[j], low), even);
      const __m256i o = _mm256_madd_epi16(_mm256_srli_epi16(a[j], 8), odd);
      acc[i][j].v = _mm256_add_epi32(acc[i][j].v, _mm256_add_epi32(e, o));
    }
  }
}

template <int NV>
void multiply(const QSparseCall& c) {
  const uint8_t* const x = c.x;
  each_row<Sums, NV>(
      c, [x](Sums(&acc)[4][NV], RowCounts n, const uint8_t* index, const int8_t* w) __attribute__((always_inline)) {
        int64_t left = n.doubled;
        for (; left >= 2; left -= 2, index += 2, w += 32) add_two<NV>(x, index, w, acc);
        for (left += n.single; left > 0; --left, ++index, w += 16) add_single<NV>(x, *index, w, acc);
        for (left = n.wide; left > 0; --left, ++index, w += 16) add_wide<NV>(x, *index, w, acc);
      });
}

void multiply_row(const QSparseCall& c) {
  const uint8_t* const x = c.x;
  each_row<RowSums, 1, 1>(
      c, [x](RowSums(&acc)[1][1], RowCounts n, const uint8_t* index, const int8_t* w) __attribute__((always_inline)) {
        const __m128i one = _mm_set1_epi16(1);
        __m128i sum = acc[0][0].v;
        const auto pairs = [&](int i) __attribute__((always_inline)) {
          return _mm_maddubs_epi16(row_bytes(x, index[i]), row_weights(w + 16 * i));
        };
        int64_t left = n.doubled;
        for (; left >= 2; left -= 2, index += 2, w += 32) {
          prefetch_weights(w);
          sum = _mm_add_epi32(sum, _mm_madd_epi16(_mm_add_epi16(pairs(0), pairs(1)), one));
        }
        for (left += n.single; left > 0; --left, ++index, w += 16)
          sum = _mm_add_epi32(sum, _mm_madd_epi16(pairs(0), one));
        for (left = n.wide; left > 0; --left, ++index, w += 16) {
          const __m256i both =
              _mm256_madd_epi16(_mm256_cvtepu8_epi16(row_bytes(x, *index)), _mm256_cvtepi8_epi16(row_weights(w)));
          sum = _mm_add_epi32(sum, _mm_hadd_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
        }
        acc[0][0].v = sum;
      });
}

}  // namespace

extern const QSparseTable kQSparse_avx2 = {8, 2, {multiply_row, multiply<1>, multiply<2>}};
}  // namespace mrt
