// matmul_u8 with NEON: tiles of 2 x 16 by smlal, two sums of a column, one for each number of a pair.
#include <arm_neon.h>

#include "kernels/qmatmul/qmatmul_kernels.h"
#include "simd/vec.h"

namespace mrt {
namespace {

constexpr int kRows = 2;
constexpr int kParts = 4;  // registers of pairs of a panel

void widen(const uint8_t* x, int64_t n, int32_t zero, int16_t* out) {
  const uint8x8_t offset = vdup_n_u8(static_cast<uint8_t>(zero));
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) vst1q_s16(out + i, vreinterpretq_s16_u16(vsubl_u8(vld1_u8(x + i), offset)));
  for (; i < n; ++i) out[i] = static_cast<int16_t>(x[i] - zero);
  if (n % 2 != 0) out[n] = 0;
}

void pack(const uint8_t* b, int64_t k, int64_t ldb, int64_t columns, int32_t zero, int16_t* out) {
  const uint8x16_t offset = vdupq_n_u8(static_cast<uint8_t>(zero));
  const auto row = [&](int64_t d) {
    if (d >= k) return offset;
    if (columns >= kPairPanel) return vld1q_u8(b + d * ldb);
    uint8_t some[kPairPanel];
    vst1q_u8(some, offset);
    for (int64_t j = 0; j < columns; ++j) some[j] = b[d * ldb + j];
    return vld1q_u8(some);
  };
  for (int64_t d = 0; d < k; d += 2, out += 2 * kPairPanel) {
    const uint8x16_t first = row(d), second = row(d + 1);
    const int16x8x2_t low = {{vreinterpretq_s16_u16(vsubl_u8(vget_low_u8(first), vget_low_u8(offset))),
                              vreinterpretq_s16_u16(vsubl_u8(vget_low_u8(second), vget_low_u8(offset)))}};
    const int16x8x2_t high = {
        {vreinterpretq_s16_u16(vsubl_high_u8(first, offset)), vreinterpretq_s16_u16(vsubl_high_u8(second, offset))}};
    vst2q_s16(out, low);
    vst2q_s16(out + kPairPanel, high);
  }
}

template <int MR>
MRT_INLINE void tile_of(const int16_t* a, int64_t lda, int64_t pairs, const int16_t* panel, int32_t* acc) {
  int32x4_t sums[MR][kParts][2] = {};
  for (int64_t p = 0; p < pairs; ++p, panel += 2 * kPairPanel) {
    int16x8_t x[MR];
#pragma GCC unroll 2
    for (int i = 0; i < MR; ++i) {
      int32_t pair;
      std::memcpy(&pair, a + i * lda + 2 * p, sizeof(pair));
      x[i] = vreinterpretq_s16_s32(vdupq_n_s32(pair));
    }
#pragma GCC unroll 4
    for (int j = 0; j < kParts; ++j) {
      const int16x8_t w = vld1q_s16(panel + 8 * j);
#pragma GCC unroll 2
      for (int i = 0; i < MR; ++i) {
        sums[i][j][0] = vmlal_s16(sums[i][j][0], vget_low_s16(w), vget_low_s16(x[i]));
        sums[i][j][1] = vmlal_high_s16(sums[i][j][1], w, x[i]);
      }
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kParts; ++j) {
      vst1q_s32(acc + i * kPairPanel + 4 * j, vpaddq_s32(sums[i][j][0], sums[i][j][1]));
    }
  }
}

void tile(const int16_t* a, int64_t lda, int64_t rows, int64_t pairs, const int16_t* panel, int32_t* acc) {
  if (rows == kRows) return tile_of<kRows>(a, lda, pairs, panel, acc);
  tile_of<1>(a, lda, pairs, panel, acc);
}

}  // namespace

extern const QMatmulKernel kQMatmul_neon = {kRows, widen, pack, tile, nullptr, nullptr};

}  // namespace mrt
