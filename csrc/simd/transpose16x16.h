// Transposition of 16 x 16 elements of four bytes in AVX-512 registers. For files compiled for AVX-512.
#pragma once

#include "simd/vec.h"

#if defined(MRT_SIMD_AVX512)
namespace mrt {
namespace {

// dst[c * dst_stride + r] = src[r * src_stride + c]. Pairs, then quads of rows are interleaved within quarters of 128
// bits, then the quarters change places, twice.
MRT_INLINE void transpose16x16(const float* src, int64_t src_stride, float* dst, int64_t dst_stride) {
  __m512 a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(src + i * src_stride);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm512_shuffle_ps(b[i], b[i + 2], 0xee);
    a[i + 2] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512 even = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), odd = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
    const __m512 more_even = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
    const __m512 more_odd = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
    _mm512_storeu_ps(dst + i * dst_stride, _mm512_shuffle_f32x4(even, more_even, 0x88));
    _mm512_storeu_ps(dst + (i + 4) * dst_stride, _mm512_shuffle_f32x4(odd, more_odd, 0x88));
    _mm512_storeu_ps(dst + (i + 8) * dst_stride, _mm512_shuffle_f32x4(even, more_even, 0xdd));
    _mm512_storeu_ps(dst + (i + 12) * dst_stride, _mm512_shuffle_f32x4(odd, more_odd, 0xdd));
  }
}

}  // namespace
}  // namespace mrt
#endif
