// Tiles of 6 x 16 by usmmla, which multiplies eight bytes of two rows by those of two columns: 24 accumulators. One row
// takes the tiles of sdot, which need no second.
#include "kernels/qgemm/dotprod.h"

namespace mrt {
namespace {

struct I8mm {
  static constexpr int kRows = 6, kPairs = 8;  // of columns
  static constexpr uint8_t kFlip = 0;
  // Of two rows and two columns: row 0 of both columns, then row 1. The last of an odd number of rows is its own
  // second.
  template <int MR>
  struct Sums {
    int32x4_t v[(MR + 1) / 2][kPairs];
  };

  template <int MR>
  static MRT_INLINE void begin(Sums<MR>& sums, const int32_t* from, int64_t from_row) {
#pragma GCC unroll 4
    for (int i = 0; i < MR; i += 2) {
#pragma GCC unroll 4
      for (int j = 0; j < kPairs; j += 2) {
        const int32_t* const at = from + i * from_row + 2 * j;
        const int64x2_t a = vreinterpretq_s64_s32(vld1q_s32(at));
        const int64x2_t b = i + 1 < MR ? vreinterpretq_s64_s32(vld1q_s32(at + from_row)) : a;
        sums.v[i / 2][j] = vreinterpretq_s32_s64(vzip1q_s64(a, b));
        sums.v[i / 2][j + 1] = vreinterpretq_s32_s64(vzip2q_s64(a, b));
      }
    }
  }
  template <int MR>
  static MRT_INLINE void store(const Sums<MR>& sums, int32_t* to) {
#pragma GCC unroll 4
    for (int i = 0; i < MR; i += 2) {
#pragma GCC unroll 4
      for (int j = 0; j < kPairs; j += 2) {
        int32_t* const at = to + i * kQPanel + 2 * j;
        const int64x2_t a = vreinterpretq_s64_s32(sums.v[i / 2][j]), b = vreinterpretq_s64_s32(sums.v[i / 2][j + 1]);
        vst1q_s32(at, vreinterpretq_s32_s64(vzip1q_s64(a, b)));
        if (i + 1 < MR) vst1q_s32(at + kQPanel, vreinterpretq_s32_s64(vzip2q_s64(a, b)));
      }
    }
  }
  template <int MR>
  static MRT_INLINE void window(Sums<MR>& sums, const int8x16_t (&x)[MR], const int8_t* w) {
    uint8x16_t low[(MR + 1) / 2], high[(MR + 1) / 2];
#pragma GCC unroll 4
    for (int i = 0; i < MR; i += 2) {
      const int64x2_t a = vreinterpretq_s64_s8(x[i]), b = vreinterpretq_s64_s8(x[i + 1 < MR ? i + 1 : i]);
      low[i / 2] = vreinterpretq_u8_s64(vzip1q_s64(a, b));
      high[i / 2] = vreinterpretq_u8_s64(vzip2q_s64(a, b));
    }
    groups<MR>(sums, low, w, w + kGroupWeights);
    groups<MR>(sums, high, w + 2 * kGroupWeights, w + 3 * kGroupWeights);
  }
  // What is added for the four k's behind them is a product with zeros.
  template <int MR>
  static MRT_INLINE void group(Sums<MR>& sums, const int8x16_t (&x)[MR], const int8_t* w) {
    uint8x16_t both[(MR + 1) / 2];
#pragma GCC unroll 4
    for (int i = 0; i < MR; i += 2) {
      const int64x2_t a = vreinterpretq_s64_s8(x[i]), b = vreinterpretq_s64_s8(x[i + 1 < MR ? i + 1 : i]);
      both[i / 2] = vreinterpretq_u8_s64(vzip1q_s64(a, b));
    }
    groups<MR>(sums, both, w, kNothing);
  }

 private:
  static constexpr int8_t kNothing[kGroupWeights] = {};

  // Eight k's of rows, in pairs, against two groups of weights.
  template <int MR>
  static MRT_INLINE void groups(Sums<MR>& sums, const uint8x16_t (&x)[(MR + 1) / 2], const int8_t* first,
                                const int8_t* second) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const int32x4_t a = vreinterpretq_s32_s8(vld1q_s8(first + 16 * j));
      const int32x4_t b = vreinterpretq_s32_s8(vld1q_s8(second + 16 * j));
      const int8x16_t left = vreinterpretq_s8_s32(vzip1q_s32(a, b)), right = vreinterpretq_s8_s32(vzip2q_s32(a, b));
#pragma GCC unroll 4
      for (int i = 0; i < (MR + 1) / 2; ++i) {
        sums.v[i][2 * j] = vusmmlaq_s32(sums.v[i][2 * j], x[i], left);
        sums.v[i][2 * j + 1] = vusmmlaq_s32(sums.v[i][2 * j + 1], x[i], right);
      }
      // No load of weights moves up across this: there are few registers for them.
      __asm__ volatile("" ::: "memory");
    }
  }
};

void finish(const QFinishCall& c) { kQFinish_neon(c, kEpilogue_neon); }

}  // namespace

extern const QTileTable kQTile_i8mm = {
    I8mm::kRows,
    true,
    {nullptr, tile<Dotprod, 1>, tile<I8mm, 2>, tile<I8mm, 3>, tile<I8mm, 4>, tile<I8mm, 5>, tile<I8mm, 6>},
    finish,
    q_row_sum,
    row_of_panels<Dotprod>,
    nullptr,
    0,
    nullptr,
    {}};

}  // namespace mrt
