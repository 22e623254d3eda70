// 64 columns: 16 sums, so that none waits for the one before it. `vpdpbusd` adds four products in 32 bits: all entries
// are alike.
#include "kernels/sparse/qmultiply_generic.h"

namespace mrt {
namespace {

struct Sums {
  static constexpr int width = 16;
  __m512i v;
  static MRT_INLINE Sums set(int32_t x) { return {_mm512_set1_epi32(x)}; }
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
            const __m512i u = _mm512_set1_epi32(four_weights(w + 4 * i));
#pragma GCC unroll 4
            for (int j = 0; j < NV; ++j) acc[i][j].v = _mm512_dpbusd_epi32(acc[i][j].v, a[j], u);
          }
        }
      });
}

}  // namespace

extern const QSparseTable kQSparse_avx512 = {16, 4, {nullptr, multiply<1>, multiply<2>, multiply<3>, multiply<4>}};
}  // namespace mrt
