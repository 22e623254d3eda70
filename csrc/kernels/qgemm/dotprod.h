// Tiles of rows by 16 columns by sdot. Included by one file per instruction set.
#pragma once

#include "kernels/qgemm/tile_neon.h"

namespace mrt {
namespace {

// 16 accumulators, and four bytes of a row against the weights of four columns. Six rows need all registers, and
// compilers then move more than two rows save.
struct Dotprod {
  static constexpr int kRows = 4;
  static constexpr uint8_t kFlip = 128;
  template <int MR>
  struct Sums {
    int32x4_t v[MR][4];
  };

  template <int MR>
  static MRT_INLINE void begin(Sums<MR>& sums, const int32_t* from, int64_t from_row) {
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) sums.v[i][j] = vld1q_s32(from + i * from_row + 4 * j);
    }
  }
  template <int MR>
  static MRT_INLINE void store(const Sums<MR>& sums, int32_t* to) {
#pragma GCC unroll 4
    for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) vst1q_s32(to + i * kQPanel + 4 * j, sums.v[i][j]);
    }
  }
  template <int MR>
  static MRT_INLINE void window(Sums<MR>& sums, const int8x16_t (&x)[MR], const int8_t* w) {
    lane<MR, 0>(sums, x, w);
    lane<MR, 1>(sums, x, w + kGroupWeights);
    lane<MR, 2>(sums, x, w + 2 * kGroupWeights);
    lane<MR, 3>(sums, x, w + 3 * kGroupWeights);
  }
  template <int MR>
  static MRT_INLINE void group(Sums<MR>& sums, const int8x16_t (&x)[MR], const int8_t* w) {
    lane<MR, 0>(sums, x, w);
  }

 private:
  template <int MR, int kLane>
  static MRT_INLINE void lane(Sums<MR>& sums, const int8x16_t (&x)[MR], const int8_t* w) {
#pragma GCC unroll 2
    for (int j = 0; j < 4; j += 2) {
      const int8x16_t w0 = vld1q_s8(w + 16 * j), w1 = vld1q_s8(w + 16 * j + 16);
#pragma GCC unroll 4
      for (int i = 0; i < MR; ++i) {
        sums.v[i][j] = vdotq_laneq_s32(sums.v[i][j], w0, x[i], kLane);
        sums.v[i][j + 1] = vdotq_laneq_s32(sums.v[i][j + 1], w1, x[i], kLane);
      }
      // No load of weights moves up across this: there are few registers for them.
      __asm__ volatile("" ::: "memory");
    }
  }
};

}  // namespace
}  // namespace mrt
