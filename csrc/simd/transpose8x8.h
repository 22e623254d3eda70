// Transposition of 8 x 8 elements of four bytes in registers: in files compiled for AVX2, and everywhere on AArch64.
#pragma once

#include "simd/vec.h"

#if defined(MRT_SIMD_AVX2)
namespace mrt {
namespace {

// dst[c * dst_stride + r] = src[r * src_stride + c]. Pairs, then quads of rows are interleaved within 128-bit halves,
// then the halves change places.
MRT_INLINE void transpose8x8(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  __m256 a[8], b[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(src + i * src_stride);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    a[4 * i] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0x44);
    a[4 * i + 1] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0xee);
    a[4 * i + 2] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0x44);
    a[4 * i + 3] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(dst + i * dst_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
    _mm256_storeu_ps(dst + (i + 4) * dst_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  }
}

}  // namespace
}  // namespace mrt
#define MRT_SIMD_TRANSPOSE8X8 1
#elif defined(__aarch64__)
namespace mrt {
namespace {

MRT_INLINE void transpose4x4(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  const float32x4_t r0 = vld1q_f32(src), r1 = vld1q_f32(src + src_stride);
  const float32x4_t r2 = vld1q_f32(src + 2 * src_stride), r3 = vld1q_f32(src + 3 * src_stride);
  // Numbers of rows 0 and 1 (and of 2 and 3) side by side, then pairs of them.
  const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r0, r1)), b = vreinterpretq_f64_f32(vtrn2q_f32(r0, r1));
  const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r2, r3)), d = vreinterpretq_f64_f32(vtrn2q_f32(r2, r3));
  vst1q_f32(dst, vreinterpretq_f32_f64(vtrn1q_f64(a, c)));
  vst1q_f32(dst + dst_stride, vreinterpretq_f32_f64(vtrn1q_f64(b, d)));
  vst1q_f32(dst + 2 * dst_stride, vreinterpretq_f32_f64(vtrn2q_f64(a, c)));
  vst1q_f32(dst + 3 * dst_stride, vreinterpretq_f32_f64(vtrn2q_f64(b, d)));
}

MRT_INLINE void transpose8x8(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
#pragma GCC unroll 2
  for (int64_t c = 0; c < 8; c += 4)
#pragma GCC unroll 2
    for (int64_t r = 0; r < 8; r += 4)
      transpose4x4(src + r * src_stride + c, src_stride, dst + c * dst_stride + r, dst_stride);
}

}  // namespace
}  // namespace mrt
#define MRT_SIMD_TRANSPOSE8X8 1
#endif
