// Four lanes of float32 by AArch64's NEON: F32x4n, with the interface and the semantics of simd/vec.h, which includes
// this. Beside what F32x4 gets from the compiler it fuses, rounds and converts in one instruction, and multiplies by a
// lane of a register. Included on AArch64 only.
#pragma once

#include <arm_neon.h>

namespace mrt {
namespace {

struct I32x4n {
  static constexpr int width = 4;
  int32x4_t v;
  static MRT_INLINE I32x4n set(int32_t x) { return {vdupq_n_s32(x)}; }
  friend MRT_INLINE I32x4n operator+(I32x4n a, I32x4n b) { return {vaddq_s32(a.v, b.v)}; }
  friend MRT_INLINE I32x4n operator-(I32x4n a, I32x4n b) { return {vsubq_s32(a.v, b.v)}; }
  friend MRT_INLINE I32x4n operator&(I32x4n a, I32x4n b) { return {vandq_s32(a.v, b.v)}; }
  friend MRT_INLINE I32x4n operator|(I32x4n a, I32x4n b) { return {vorrq_s32(a.v, b.v)}; }
  friend MRT_INLINE I32x4n operator^(I32x4n a, I32x4n b) { return {veorq_s32(a.v, b.v)}; }
  template <int n>
  MRT_INLINE I32x4n shl() const {
    return {vshlq_n_s32(v, n)};
  }
  template <int n>
  MRT_INLINE I32x4n shr() const {
    return {vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(v), n))};
  }
  template <int n>
  MRT_INLINE I32x4n sar() const {
    return {vshrq_n_s32(v, n)};
  }
};

struct M32x4n {
  uint32x4_t v;  // all ones or all zeros a lane
  friend MRT_INLINE M32x4n operator&(M32x4n a, M32x4n b) { return {vandq_u32(a.v, b.v)}; }
  friend MRT_INLINE M32x4n operator|(M32x4n a, M32x4n b) { return {vorrq_u32(a.v, b.v)}; }
  friend MRT_INLINE M32x4n operator~(M32x4n a) { return {vmvnq_u32(a.v)}; }
  MRT_INLINE bool any() const { return vmaxvq_u32(v) != 0; }
  MRT_INLINE bool all() const { return vminvq_u32(v) != 0; }
};

struct F32x4n {
  using Int = I32x4n;
  using Mask = M32x4n;
  static constexpr int width = 4;
  float32x4_t v;
  static MRT_INLINE F32x4n zero() { return {vdupq_n_f32(0.0f)}; }
  static MRT_INLINE F32x4n set(float x) { return {vdupq_n_f32(x)}; }
  static MRT_INLINE F32x4n load(const float* p) { return {vld1q_f32(p)}; }
  static MRT_INLINE F32x4n load(const float* p, int64_t n) {
    if (n >= 4) return load(p);
    float32x4_t r = vdupq_n_f32(0.0f);
    if (n >= 2) r = vcombine_f32(vld1_f32(p), vdup_n_f32(0.0f));
    if (n == 3) r = vld1q_lane_f32(p + 2, r, 2);
    if (n == 1) r = vld1q_lane_f32(p, r, 0);
    return {r};
  }
  static MRT_INLINE F32x4n load_half(const uint16_t* p) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))}; }
  static MRT_INLINE F32x4n load_brain(const uint16_t* p) {
    return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))};
  }
  static MRT_INLINE F32x4n from_int(I32x4n i) { return {vcvtq_f32_s32(i.v)}; }
  static MRT_INLINE F32x4n from_bits(I32x4n i) { return {vreinterpretq_f32_s32(i.v)}; }
  MRT_INLINE I32x4n bits() const { return {vreinterpretq_s32_f32(v)}; }
  MRT_INLINE I32x4n to_int() const { return {vcvtnq_s32_f32(v)}; }
  MRT_INLINE void store(float* p) const { vst1q_f32(p, v); }
  MRT_INLINE void store(float* p, int64_t n) const {
    if (n >= 4) return store(p);
    if (n >= 2) vst1_f32(p, vget_low_f32(v));
    if (n == 3) vst1q_lane_f32(p + 2, v, 2);
    if (n == 1) vst1q_lane_f32(p, v, 0);
  }
  // The number in lane n of a, times b, plus c.
  template <int n>
  static MRT_INLINE F32x4n fma_lane(F32x4n a, F32x4n b, F32x4n c) {
    return {vfmaq_laneq_f32(c.v, b.v, a.v, n)};
  }
  // What is loaded from here on is loaded behind what a is made of: the compiler would load all at once, for which
  // there are no registers. No instruction.
  static MRT_INLINE void before(F32x4n& a) { __asm__("" : "+w"(a.v) : : "memory"); }
  friend MRT_INLINE F32x4n operator+(F32x4n a, F32x4n b) { return {vaddq_f32(a.v, b.v)}; }
  friend MRT_INLINE F32x4n operator-(F32x4n a, F32x4n b) { return {vsubq_f32(a.v, b.v)}; }
  friend MRT_INLINE F32x4n operator*(F32x4n a, F32x4n b) { return {vmulq_f32(a.v, b.v)}; }
  friend MRT_INLINE F32x4n operator/(F32x4n a, F32x4n b) { return {vdivq_f32(a.v, b.v)}; }
  friend MRT_INLINE F32x4n operator-(F32x4n a) { return {vnegq_f32(a.v)}; }
  friend MRT_INLINE M32x4n operator<(F32x4n a, F32x4n b) { return {vcltq_f32(a.v, b.v)}; }
  friend MRT_INLINE M32x4n operator<=(F32x4n a, F32x4n b) { return {vcleq_f32(a.v, b.v)}; }
  friend MRT_INLINE M32x4n operator>(F32x4n a, F32x4n b) { return {vcgtq_f32(a.v, b.v)}; }
  friend MRT_INLINE M32x4n operator>=(F32x4n a, F32x4n b) { return {vcgeq_f32(a.v, b.v)}; }
  friend MRT_INLINE M32x4n operator==(F32x4n a, F32x4n b) { return {vceqq_f32(a.v, b.v)}; }
  friend MRT_INLINE M32x4n operator!=(F32x4n a, F32x4n b) { return {vmvnq_u32(vceqq_f32(a.v, b.v))}; }
};
MRT_INLINE F32x4n fma(F32x4n a, F32x4n b, F32x4n c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
MRT_INLINE F32x4n select(M32x4n m, F32x4n a, F32x4n b) { return {vbslq_f32(m.v, a.v, b.v)}; }
// Not fmin and fmax, nor fminnm and fmaxnm: where one of two is NaN, those choose by that and not by the order.
MRT_INLINE F32x4n min(F32x4n a, F32x4n b) { return select(a < b, a, b); }
MRT_INLINE F32x4n max(F32x4n a, F32x4n b) { return select(a > b, a, b); }
MRT_INLINE F32x4n abs(F32x4n a) { return {vabsq_f32(a.v)}; }
MRT_INLINE F32x4n sqrt(F32x4n a) { return {vsqrtq_f32(a.v)}; }
MRT_INLINE F32x4n round(F32x4n a) { return {vrndnq_f32(a.v)}; }
MRT_INLINE F32x4n floor(F32x4n a) { return {vrndmq_f32(a.v)}; }
MRT_INLINE F32x4n is_nan_or(F32x4n x, F32x4n other) { return select(x != x, x, other); }
MRT_INLINE float reduce_add(F32x4n a) { return vaddvq_f32(a.v); }
MRT_INLINE float reduce_max(F32x4n a) {
  const F32x4n s = max(a, {vextq_f32(a.v, a.v, 2)});
  return vgetq_lane_f32(max(s, {vextq_f32(s.v, s.v, 1)}).v, 0);
}
MRT_INLINE float reduce_min(F32x4n a) {
  const F32x4n s = min(a, {vextq_f32(a.v, a.v, 2)});
  return vgetq_lane_f32(min(s, {vextq_f32(s.v, s.v, 1)}).v, 0);
}

MRT_INLINE F32x4n clamp(F32x4n lo, F32x4n hi, F32x4n x) { return {vminq_f32(hi.v, vmaxq_f32(lo.v, x.v))}; }

template <>
constexpr bool kMultipliesByLane<F32x4n> = true;

}  // namespace
}  // namespace mrt
