// Tiles of 2 x 16 by smull and smlal, for cores without sdot: products of two groups add up in 16 bits, of 8 columns'
// halves each, and then in 32, where each column has two sums. Only -128 * -128 twice would not fit: where a weight is
// -128 each product is added in 32 bits.
#include "kernels/qgemm/tile_neon.h"

namespace mrt {
namespace {

template <bool kAny>
struct Plain {
  static constexpr int kRows = 2;
  static constexpr uint8_t kFlip = 128;
  template <int MR>
  struct Sums {
    int32x4_t v[MR][8];  // two of each four columns
  };

  template <int MR>
  static MRT_INLINE void begin(Sums<MR>& sums, const int32_t* from, int64_t from_row) {
#pragma GCC unroll 2
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const int32x4_t start = vld1q_s32(from + i * from_row + 4 * j);
        sums.v[i][2 * j] = vzip1q_s32(start, vdupq_n_s32(0));
        sums.v[i][2 * j + 1] = vzip2q_s32(start, vdupq_n_s32(0));
      }
    }
  }
  template <int MR>
  static MRT_INLINE void store(const Sums<MR>& sums, int32_t* to) {
#pragma GCC unroll 2
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        vst1q_s32(to + i * kQPanel + 4 * j, vpaddq_s32(sums.v[i][2 * j], sums.v[i][2 * j + 1]));
      }
    }
  }
  template <int MR>
  static MRT_INLINE void window(Sums<MR>& sums, const int8x16_t (&x)[MR], const int8_t* w) {
    pair<MR, 0>(sums, x, w);
    pair<MR, 2>(sums, x, w + 2 * kGroupWeights);
  }
  template <int MR>
  static MRT_INLINE void group(Sums<MR>& sums, const int8x16_t (&x)[MR], const int8_t* w) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const int8x16_t four = vld1q_s8(w + 16 * j);
#pragma GCC unroll 2
      for (int i = 0; i < MR; ++i) {
        add(sums.v[i][2 * j], vmull_s8(vget_low_s8(four), vget_low_s8(x[i])));
        add(sums.v[i][2 * j + 1], vmull_high_s8(four, x[i]));
      }
    }
  }

 private:
  static MRT_INLINE void add(int32x4_t& sum, int16x8_t products) { sum = vpadalq_s16(sum, products); }

  template <int MR, int kGroup>
  static MRT_INLINE void pair(Sums<MR>& sums, const int8x16_t (&x)[MR], const int8_t* w) {
    int8x16_t first[MR], second[MR];
#pragma GCC unroll 2
    for (int i = 0; i < MR; ++i) {
      first[i] = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x[i]), kGroup));
      second[i] = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x[i]), kGroup + 1));
    }
    if (kAny) {
      group<MR>(sums, first, w);
      group<MR>(sums, second, w + kGroupWeights);
      return;
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const int8x16_t a = vld1q_s8(w + 16 * j), b = vld1q_s8(w + kGroupWeights + 16 * j);
#pragma GCC unroll 2
      for (int i = 0; i < MR; ++i) {
        const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(first[i])), high = vmull_high_s8(a, first[i]);
        add(sums.v[i][2 * j], vmlal_s8(low, vget_low_s8(b), vget_low_s8(second[i])));
        add(sums.v[i][2 * j + 1], vmlal_high_s8(high, b, second[i]));
      }
      __asm__ volatile("" ::: "memory");  // no load of weights moves up across this: there are few registers for them
    }
  }
};

bool has_least(const QTileCall& c) {
  int8x16_t least = vdupq_n_s8(0);
  for (int64_t t = 0; t < c.taps; ++t) {
    const int8_t* const w = c.w + t * c.tap_bytes;
    for (int64_t at = c.g0 * kGroupWeights; at < c.g1 * kGroupWeights; at += 16) {
      least = vminq_s8(least, vld1q_s8(w + at));
    }
  }
  return vminvq_s8(least) == -128;
}

template <int MR>
void checked_tile(const QTileCall& c) {
  if (has_least(c)) return tiles_of<Plain<true>, MR, true>(c);
  tiles_of<Plain<false>, MR, true>(c);
}

void finish_with(const QFinishCall& c, const EpilogueTable& activations) {
  if (c.sum && c.n == kQPanel && !c.w_zero) return store_sums_of_bytes(c, q_fold(c));
  q_finish<F32x4n>(c, activations);
}
void finish(const QFinishCall& c) { finish_with(c, kEpilogue_neon); }

}  // namespace

extern const QFinishWith kQFinish_neon = finish_with;
extern const QTileTable kQTile_neon = {Plain<true>::kRows,
                                       true,
                                       {nullptr, checked_tile<1>, checked_tile<2>},
                                       finish,
                                       q_row_sum,
                                       nullptr,
                                       nullptr,
                                       0,
                                       nullptr,
                                       {}};

}  // namespace mrt
