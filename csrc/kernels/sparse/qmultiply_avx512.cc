// 64 columns: 16 sums, so that none waits for the one before it. `vpdpbusd` adds four products in 32 bits: all entries
// are alike.
#include "kernels/sparse/qmultiply_generic.h"

namespace mrt {
namespace {

struct Sums {
  static constexpr int width = 16;
  __m512i v;
  static MRT_INLINE Sums start(const int32_t* p) { return {_mm512_set1_epi32(*p)}; }
  static MRT_INLINE Sums load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
  MRT_INLINE void store(int32_t* p) const { _mm512_storeu_si512(p, v); }
};

template <int NV>
void multiply(const QSparseCall& c) {
  const uint8_t* const x = c.x;
  each_row<Sums, NV>(
      c, [x](Sums(&acc)[4][NV], RowCounts n, const uint8_t* index, const int8_t* w) __attribute__((always_inline)) {
        for (int64_t left = n.doubled + n.single + n.wide; left > 0; --left, ++index, w += 16) {
          prefetch_weights(w);
          const uint8_t* const from = x + static_cast<size_t>(*index) * (NV * 64);
          __m512i a[NV];
#pragma GCC unroll 4
          for (int j = 0; j < NV; ++j) a[j] = _mm512_loadu_si512(from + 64 * j);
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            const __m512i u = _mm512_set1_epi32(four_bytes(w + 4 * i));
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) acc[i][j].v = _mm512_dpbusd_epi32(acc[i][j].v, a[j], u);
          }
        }
      });
}

// In four chains.
void multiply_row(const QSparseCall& c) {
  const uint8_t* const x = c.x;
  each_row<RowSums, 1, 1>(
      c, [x](RowSums(&acc)[1][1], RowCounts n, const uint8_t* index, const int8_t* w) __attribute__((always_inline)) {
        __m128i sum[4] = {acc[0][0].v};
        const auto add = [&](int64_t i) __attribute__((always_inline)) {
          sum[i] = _mm_dpbusd_epi32(sum[i], row_bytes(x, index[i]), row_weights(w + 16 * i));
        };
        int64_t left = n.doubled + n.single + n.wide;
        for (; left >= 4; left -= 4, index += 4, w += 64) {
          prefetch_weights(w);
#pragma GCC unroll 4
          for (int64_t i = 0; i < 4; ++i) add(i);
        }
        for (; left > 0; --left, ++index, w += 16) add(0);
        acc[0][0].v = _mm_add_epi32(_mm_add_epi32(sum[0], sum[1]), _mm_add_epi32(sum[2], sum[3]));
      });
}

}  // namespace

extern const QSparseTable kQSparse_avx512 = {16, 4, {multiply_row, multiply<1>, multiply<2>, multiply<3>, multiply<4>}};
}  // namespace mrt
