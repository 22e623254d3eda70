// Bytes as integers of a vector, and the scales and zero points of a group.
#pragma once

#include "kernels/gemmq/unpack.h"
#include "simd/vec.h"

namespace mrt {
namespace {

MRT_INLINE I32x4 widen_s8(const uint8_t* p, I32x4) {
  return {i32x4_t{static_cast<int8_t>(p[0]), static_cast<int8_t>(p[1]), static_cast<int8_t>(p[2]),
                  static_cast<int8_t>(p[3])}};
}
MRT_INLINE I32x4 widen_u8(const uint8_t* p, I32x4) { return {i32x4_t{p[0], p[1], p[2], p[3]}}; }
#if defined(__aarch64__)
MRT_INLINE uint8x8_t four_bytes(const uint8_t* p) {
  uint32_t four;
  std::memcpy(&four, p, sizeof(four));
  return vreinterpret_u8_u32(vdup_n_u32(four));
}
MRT_INLINE I32x4n widen_s8(const uint8_t* p, I32x4n) {
  return {vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(four_bytes(p)))))};
}
MRT_INLINE I32x4n widen_u8(const uint8_t* p, I32x4n) {
  return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four_bytes(p)))))};
}
#endif
#if defined(MRT_SIMD_AVX2)
MRT_INLINE I32x8 widen_s8(const uint8_t* p, I32x8) {
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))};
}
MRT_INLINE I32x8 widen_u8(const uint8_t* p, I32x8) {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))};
}
#endif
#if defined(MRT_SIMD_AVX512)
MRT_INLINE I32x16 widen_s8(const uint8_t* p, I32x16) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
MRT_INLINE I32x16 widen_u8(const uint8_t* p, I32x16) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
#endif

// The scales and zero points of a panel that is not full, and zeros behind them.
struct FewColumns {
  alignas(16) char scale[kPanel * sizeof(float)] = {};
  uint8_t zero[kPanel] = {};
  __attribute__((noinline)) FewColumns(const UnpackCall& c, int64_t at) {
    std::memcpy(scale, c.scale.from(at).data, static_cast<size_t>(c.columns * c.scale.bytes));
    if (c.zero) std::memcpy(zero, c.zero + at, static_cast<size_t>(c.columns));
  }
};

// Scales and zero points of the columns in a group, `bias` more than these; none: 0.
template <typename V>
struct Group {
  static constexpr int kVectors = kPanel / V::width;
  V scale[kVectors], zero[kVectors];
  // Of the group whose scales are `at` behind the first's.
  MRT_INLINE Group(const UnpackCall& c, int64_t at, float bias) {
    if (c.columns == kPanel) {
      read(c.scale.from(at), c.zero ? reinterpret_cast<const uint8_t*>(c.zero) + at : nullptr, bias);
      return;
    }
    const FewColumns few(c, at);
    read({few.scale, c.scale.bytes}, few.zero, bias);
  }
  MRT_INLINE void read(const Scales& s, const uint8_t* z, float bias) {
    for (int i = 0; i < kVectors; ++i) {
      scale[i] = s.half() ? V::load_half(s.halves() + i * V::width) : V::load(s.floats() + i * V::width);
      zero[i] = V::set(bias);
      if (z) zero[i] = zero[i] + V::from_int(widen_s8(z + i * V::width, typename V::Int{}));
    }
  }
  MRT_INLINE V floats(int i, typename V::Int q) const { return (V::from_int(q) - zero[i]) * scale[i]; }
  MRT_INLINE void store(int i, typename V::Int q, float* out) const { floats(i, q).store(out + i * V::width); }
};

}  // namespace
}  // namespace mrt
