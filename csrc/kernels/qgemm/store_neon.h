// From sums to bytes with NEON; see QFolded. Included by one file per instruction set and family.
#pragma once

#include <arm_neon.h>

#include "kernels/qgemm/tile.h"
#include "simd/vec.h"

namespace mrt {
namespace {

// 16 floats within bounds, rounded half to even, plus zero: their low bytes.
MRT_INLINE uint8x16_t rounded_bytes(const float32x4_t (&x)[4], int16x8_t zero) {
  int16x8_t half[2];
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    const int32x4_t low = vcvtnq_s32_f32(x[2 * j]), high = vcvtnq_s32_f32(x[2 * j + 1]);
    half[j] = vaddq_s16(vuzp1q_s16(vreinterpretq_s16_s32(low), vreinterpretq_s16_s32(high)), zero);
  }
  return vuzp1q_u8(vreinterpretq_u8_s16(half[0]), vreinterpretq_u8_s16(half[1]));
}

// The same of floats that fit in 32 bits when they are rounded, with or without bounds: those of a byte without a sign
// are met by narrowing.
MRT_INLINE uint8x16_t saturated_bytes(const float32x4_t (&x)[4], int16x8_t zero) {
  int16x8_t half[2];
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    const int16x4_t low = vqmovn_s32(vcvtnq_s32_f32(x[2 * j]));
    half[j] = vqaddq_s16(vqmovn_high_s32(low, vcvtnq_s32_f32(x[2 * j + 1])), zero);
  }
  return vqmovun_high_s16(vqmovun_s16(half[0]), half[1]);
}

// Rows of 16 sums, which began with f.start, to bytes. Rounding keeps the order of numbers, so that bounds are met
// behind it where what is rounded fits (QFolded::fits), and are none where they are those of the type. Else a NaN
// becomes the lower bound: fmaxnm takes the number.
template <bool kFits, bool kBounds>
MRT_INLINE void store_rows_of(const QFolded& f, const int32_t* sums, int64_t rows, uint8_t* y, int64_t ldy) {
  const int sign = f.is_signed ? 128 : 0;  // bytes with a sign are made as such without one
  const auto byte = [&](float x) {
    return vdupq_n_u8(static_cast<uint8_t>(vgetq_lane_s32(vcvtnq_s32_f32(vdupq_n_f32(x)), 0) + f.zero + sign));
  };
  const float32x4_t lo = vdupq_n_f32(f.lo), hi = vdupq_n_f32(f.hi);
  const uint8x16_t least = byte(f.lo), most = byte(f.hi), flip = vdupq_n_u8(static_cast<uint8_t>(sign));
  const int16x8_t zero = vdupq_n_s16(static_cast<int16_t>(f.zero + (kFits ? sign : 0)));
  float32x4_t scale[4], bias[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    scale[j] = vld1q_f32(f.scale + 4 * j);
    bias[j] = vld1q_f32(f.bias + 4 * j);
  }
  for (; rows > 0; --rows, sums += kQPanel, y += ldy) {
    float32x4_t x[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      x[j] = vaddq_f32(vmulq_f32(vcvtq_f32_s32(vld1q_s32(sums + 4 * j)), scale[j]), bias[j]);
      if (!kFits) x[j] = vminq_f32(vmaxnmq_f32(x[j], lo), hi);
    }
    uint8x16_t bytes = kFits ? saturated_bytes(x, zero) : rounded_bytes(x, zero);
    if (kFits && kBounds) bytes = veorq_u8(vminq_u8(vmaxq_u8(bytes, least), most), flip);
    vst1q_u8(y, bytes);
  }
}

MRT_INLINE void store_folded(const QFolded& f, const int32_t* sums, int64_t rows, uint8_t* y, int64_t ldy) {
  if (!f.fits) return store_rows_of<false, true>(f, sums, rows, y, ldy);
  const float zero = static_cast<float>(f.zero);
  if (f.is_signed || f.lo + zero > 0.0f || f.hi + zero < 255.0f) {
    return store_rows_of<true, true>(f, sums, rows, y, ldy);
  }
  store_rows_of<true, false>(f, sums, rows, y, ldy);
}

// The same of sums to which bytes are added, see QFinishCall::sum; sums begin with 0 here.
MRT_INLINE void store_sums_of_bytes(const QFinishCall& c, const QFolded& f) {
  const QSum& sum = *c.sum;
  const float32x4_t lo = vdupq_n_f32(f.lo), hi = vdupq_n_f32(f.hi);
  const int16x8_t zero = vdupq_n_s16(static_cast<int16_t>(c.zero));
  const int16x8_t residual_zero = vdupq_n_s16(static_cast<int16_t>(sum.residual_zero));
  uint8_t* y = static_cast<uint8_t*>(c.y);
  const uint8_t* bytes = c.bytes;
  const int32_t* acc = c.acc;
  for (int64_t left = c.rows; left > 0; --left, acc += c.ld, bytes += c.ldr, y += c.ldy) {
    const uint8x16_t b = vld1q_u8(bytes);
    const int16x8_t half[2] = {vsubq_s16(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(b))), residual_zero),
                               vsubq_s16(vreinterpretq_s16_u16(vmovl_high_u8(b)), residual_zero)};
    float32x4_t x[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const int32x4_t wide = j % 2 == 0 ? vmovl_s16(vget_low_s16(half[j / 2])) : vmovl_high_s16(half[j / 2]);
      const float32x4_t residual = vmulq_f32(vcvtq_f32_s32(wide), vdupq_n_f32(sum.residual_scale));
      const int32x4_t total = vaddq_s32(vld1q_s32(acc + 4 * j), vld1q_s32(f.start + 4 * j));
      x[j] = vaddq_f32(vmulq_f32(vcvtq_f32_s32(total), vld1q_f32(f.scale + 4 * j)), vld1q_f32(f.bias + 4 * j));
      x[j] = vrndnq_f32(vminq_f32(vmaxnmq_f32(x[j], lo), hi));
      x[j] = vdivq_f32(vaddq_f32(vmulq_f32(x[j], vdupq_n_f32(sum.scale)), residual), vdupq_n_f32(sum.y_scale));
      x[j] = vminq_f32(vmaxnmq_f32(x[j], vdupq_n_f32(c.lo)), vdupq_n_f32(c.hi));
    }
    vst1q_u8(y, rounded_bytes(x, zero));
  }
}

}  // namespace
}  // namespace mrt
