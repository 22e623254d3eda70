// Ranges and bytes of floats, a vector at a time.
#pragma once

#include "kernels/dynamic_quantize/dynamic_quantize_kernels.h"
#include "simd/vec.h"

namespace mrt {
namespace {

constexpr int kChains = 4;  // of minima and maxima, each of which waits for the one before it

template <typename V>
ValueRange value_range(const float* x, int64_t n) {
  V lo[kChains], hi[kChains];
  typename V::Mask nan = V::zero() != V::zero();
  for (int c = 0; c < kChains; ++c) lo[c] = hi[c] = V::zero();
  int64_t i = 0;
  for (; i + kChains * V::width <= n; i += kChains * V::width) {
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c) {
      const V v = V::load(x + i + c * V::width);
      lo[c] = min(v, lo[c]);
      hi[c] = max(v, hi[c]);
      nan = nan | (v != v);
    }
  }
  for (; i < n; i += V::width) {
    const V v = n - i >= V::width ? V::load(x + i) : V::load(x + i, n - i);
    lo[0] = min(v, lo[0]);
    hi[0] = max(v, hi[0]);
    nan = nan | (v != v);
  }
  for (int c = 1; c < kChains; ++c) {
    lo[0] = min(lo[c], lo[0]);
    hi[0] = max(hi[c], hi[0]);
  }
  return {reduce_min(lo[0]), reduce_max(hi[0]), nan.any()};
}

// The low bytes of V::width integers from 0 to 255.
template <typename I>
MRT_INLINE void store_low(I q, int64_t n, uint8_t* y) {
  int32_t wide[I::width];
  std::memcpy(wide, &q.v, sizeof(q.v));
  for (int64_t j = 0; j < n; ++j) y[j] = static_cast<uint8_t>(wide[j]);
}
#if defined(__aarch64__)
MRT_INLINE void store_low(I32x4n q, int64_t n, uint8_t* y) {
  const uint16x4_t narrow = vmovn_u32(vreinterpretq_u32_s32(q.v));
  const uint8x8_t bytes = vmovn_u16(vcombine_u16(narrow, narrow));
  std::memcpy(y, &bytes, static_cast<size_t>(n));
}
#endif
#if defined(MRT_SIMD_AVX2)
MRT_INLINE void store_low(I32x8 q, int64_t n, uint8_t* y) {
  const __m128i w = _mm_packus_epi32(_mm256_castsi256_si128(q.v), _mm256_extracti128_si256(q.v, 1));
  const __m128i bytes = _mm_packus_epi16(w, w);
  std::memcpy(y, &bytes, static_cast<size_t>(n));
}
#endif
#if defined(MRT_SIMD_AVX512)
MRT_INLINE void store_low(I32x16 q, int64_t n, uint8_t* y) {
  const __m128i bytes = _mm512_cvtepi32_epi8(q.v);
  std::memcpy(y, &bytes, static_cast<size_t>(n));
}
#endif

template <typename V>
void to_bytes(const float* x, int64_t n, float divisor, int32_t zero, uint8_t* y) {
  const V by = V::set(divisor), lo = V::set(static_cast<float>(-zero)), hi = V::set(static_cast<float>(255 - zero));
  const typename V::Int add = V::Int::set(zero);
  const auto bytes = [&](V v) __attribute__((always_inline)) { return min(max(v / by, lo), hi).to_int() + add; };
  int64_t i = 0;
  for (; i + V::width <= n; i += V::width) store_low(bytes(V::load(x + i)), V::width, y + i);
  if (i < n) store_low(bytes(V::load(x + i, n - i)), n - i, y + i);
}

}  // namespace
}  // namespace mrt
