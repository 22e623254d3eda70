// The conversions, written once for every vector width.
// Included by one file per ISA.
#pragma once

#include <cstring>

#include "kernels/qdepthwise/convert.h"
#include "simd/vec.h"

namespace mrt {
namespace {

constexpr float kMaxWeight = 1 << 30;

// V::width bytes as floats.
template <typename V>
MRT_INLINE V load_bytes(const uint8_t* p) {
  float wide[V::width];
  for (int i = 0; i < V::width; ++i) wide[i] = static_cast<float>(p[i]);
  return V::load(wide);
}
#if defined(__aarch64__)
template <>
MRT_INLINE F32x4n load_bytes<F32x4n>(const uint8_t* p) {
  uint32_t four;
  std::memcpy(&four, p, sizeof(four));
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four))))))};
}
#endif
#if defined(MRT_SIMD_AVX2)
template <>
MRT_INLINE F32x8 load_bytes<F32x8>(const uint8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
#endif

template <typename V>
void widen(const uint8_t* x, int64_t pixels, int64_t stride, int64_t n, int32_t zero, float* out, int64_t ldo) {
  const V minus = V::set(static_cast<float>(zero));
  for (int64_t p = 0; p < pixels; ++p, x += stride, out += ldo) {
    int64_t c = 0;
    for (; c + V::width <= n; c += V::width) (load_bytes<V>(x + c) - minus).store(out + c);
    for (; c < n; ++c) out[c] = static_cast<float>(static_cast<int32_t>(x[c]) - zero);
  }
}

template <typename V>
void to_ints(float* x, int64_t n) {
  const V lowest = V::set(-kMaxWeight), highest = V::set(kMaxWeight);  // a hostile file's weights may be anything
  for (int64_t i = 0; i < n; i += V::width) {
    const typename V::Int q = min(max(V::load(x + i), lowest), highest).to_int();
    std::memcpy(x + i, &q.v, sizeof(q.v));
  }
}

}  // namespace
}  // namespace mrt
