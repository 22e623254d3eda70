// Vectors of float32: one interface, a type per width, so that an algorithm is written once as a template over V.
//
//   F32x1  one lane, plain C++
//   F32x4  four lanes by the compiler's vector extension: SSE2, NEON, or whatever the baseline of the target has
//   F32x4n four lanes by NEON intrinsics (vec_neon.h); on AArch64
//   F32x8  AVX2 with FMA and F16C; only where the file is compiled for it
//   F32x16 AVX-512 F, BW, DQ and VL; the same
//
// Everything is in an anonymous namespace: a file compiled with wider flags must not leave a symbol that the linker
// could pick for code that runs on an older CPU. Include this in .cc files (and in headers that only they include).
//
// Semantics that callers rely on:
//   min(a, b) is a < b ? a : b and max(a, b) is a > b ? a : b: where either is NaN the result is b. So
//   max(zero, x) and min(hi, max(lo, x)) keep a NaN of x, as torch does.
//   fma(a, b, c) is a * b + c, with one rounding where the ISA has it.
//   load_half(p) and load_brain(p) read `width` numbers of float16 and of bfloat16.
//   load(p, n) and store(p, n) touch the first n lanes only (0 <= n <= width); missing lanes load as zero.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define MRT_SIMD_AVX2 1
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define MRT_SIMD_AVX512 1
#endif
#endif

// Helpers must vanish into their callers, at -O0 and in debug builds as well.
#define MRT_INLINE inline __attribute__((always_inline))

namespace mrt {
namespace {

// ---- one lane ----------------------------------------------------------------------------------------------------

struct I32x1 {
  static constexpr int width = 1;
  int32_t v;
  static MRT_INLINE I32x1 set(int32_t x) { return {x}; }
  friend MRT_INLINE I32x1 operator+(I32x1 a, I32x1 b) {
    return {static_cast<int32_t>(static_cast<uint32_t>(a.v) + static_cast<uint32_t>(b.v))};
  }
  friend MRT_INLINE I32x1 operator-(I32x1 a, I32x1 b) {
    return {static_cast<int32_t>(static_cast<uint32_t>(a.v) - static_cast<uint32_t>(b.v))};
  }
  friend MRT_INLINE I32x1 operator&(I32x1 a, I32x1 b) { return {a.v & b.v}; }
  friend MRT_INLINE I32x1 operator|(I32x1 a, I32x1 b) { return {a.v | b.v}; }
  friend MRT_INLINE I32x1 operator^(I32x1 a, I32x1 b) { return {a.v ^ b.v}; }
  template <int n>
  MRT_INLINE I32x1 shl() const {
    return {static_cast<int32_t>(static_cast<uint32_t>(v) << n)};
  }
  template <int n>
  MRT_INLINE I32x1 shr() const {  // logical
    return {static_cast<int32_t>(static_cast<uint32_t>(v) >> n)};
  }
  template <int n>
  MRT_INLINE I32x1 sar() const {  // arithmetic
    return {v >> n};
  }
};

struct M32x1 {
  bool v;
  friend MRT_INLINE M32x1 operator&(M32x1 a, M32x1 b) { return {a.v && b.v}; }
  friend MRT_INLINE M32x1 operator|(M32x1 a, M32x1 b) { return {a.v || b.v}; }
  friend MRT_INLINE M32x1 operator~(M32x1 a) { return {!a.v}; }
  MRT_INLINE bool any() const { return v; }
  MRT_INLINE bool all() const { return v; }
};

struct F32x1 {
  using Int = I32x1;
  using Mask = M32x1;
  static constexpr int width = 1;
  float v;
  static MRT_INLINE F32x1 zero() { return {0.0f}; }
  static MRT_INLINE F32x1 set(float x) { return {x}; }
  static MRT_INLINE F32x1 load(const float* p) { return {*p}; }
  static MRT_INLINE F32x1 load(const float* p, int64_t n) { return {n > 0 ? *p : 0.0f}; }
  static MRT_INLINE F32x1 from_int(I32x1 i) { return {static_cast<float>(i.v)}; }
  static MRT_INLINE F32x1 from_bits(I32x1 i) {
    F32x1 r;
    std::memcpy(&r.v, &i.v, 4);
    return r;
  }
  MRT_INLINE I32x1 bits() const {
    I32x1 r;
    std::memcpy(&r.v, &v, 4);
    return r;
  }
  MRT_INLINE I32x1 to_int() const {
    return {static_cast<int32_t>(std::nearbyintf(v))};
  }  // to nearest even; in range only
  MRT_INLINE void store(float* p) const { *p = v; }
  MRT_INLINE void store(float* p, int64_t n) const {
    if (n > 0) *p = v;
  }
  friend MRT_INLINE F32x1 operator+(F32x1 a, F32x1 b) { return {a.v + b.v}; }
  friend MRT_INLINE F32x1 operator-(F32x1 a, F32x1 b) { return {a.v - b.v}; }
  friend MRT_INLINE F32x1 operator*(F32x1 a, F32x1 b) { return {a.v * b.v}; }
  friend MRT_INLINE F32x1 operator/(F32x1 a, F32x1 b) { return {a.v / b.v}; }
  friend MRT_INLINE F32x1 operator-(F32x1 a) { return {-a.v}; }
  friend MRT_INLINE M32x1 operator<(F32x1 a, F32x1 b) { return {a.v < b.v}; }
  friend MRT_INLINE M32x1 operator<=(F32x1 a, F32x1 b) { return {a.v <= b.v}; }
  friend MRT_INLINE M32x1 operator>(F32x1 a, F32x1 b) { return {a.v > b.v}; }
  friend MRT_INLINE M32x1 operator>=(F32x1 a, F32x1 b) { return {a.v >= b.v}; }
  friend MRT_INLINE M32x1 operator==(F32x1 a, F32x1 b) { return {a.v == b.v}; }
  friend MRT_INLINE M32x1 operator!=(F32x1 a, F32x1 b) { return {a.v != b.v}; }
};
MRT_INLINE F32x1 fma(F32x1 a, F32x1 b, F32x1 c) { return {a.v * b.v + c.v}; }
MRT_INLINE F32x1 min(F32x1 a, F32x1 b) { return {a.v < b.v ? a.v : b.v}; }
MRT_INLINE F32x1 max(F32x1 a, F32x1 b) { return {a.v > b.v ? a.v : b.v}; }
MRT_INLINE F32x1 select(M32x1 m, F32x1 a, F32x1 b) { return m.v ? a : b; }
MRT_INLINE F32x1 is_nan_or(F32x1 x, F32x1 other) { return x.v != x.v ? x : other; }
MRT_INLINE F32x1 abs(F32x1 a) { return {std::fabs(a.v)}; }
MRT_INLINE F32x1 sqrt(F32x1 a) { return {std::sqrt(a.v)}; }
MRT_INLINE F32x1 round(F32x1 a) { return {std::nearbyintf(a.v)}; }
MRT_INLINE F32x1 floor(F32x1 a) { return {std::floor(a.v)}; }
MRT_INLINE float reduce_add(F32x1 a) { return a.v; }
MRT_INLINE float reduce_max(F32x1 a) { return a.v; }
MRT_INLINE float reduce_min(F32x1 a) { return a.v; }

// ---- four lanes, by the compiler ------------------------------------------------------------------------------------

typedef float f32x4_t __attribute__((vector_size(16)));
typedef int32_t i32x4_t __attribute__((vector_size(16)));
typedef uint32_t u32x4_t __attribute__((vector_size(16)));

struct I32x4 {
  static constexpr int width = 4;
  i32x4_t v;
  static MRT_INLINE I32x4 set(int32_t x) { return {i32x4_t{x, x, x, x}}; }
  friend MRT_INLINE I32x4 operator+(I32x4 a, I32x4 b) { return {(i32x4_t)((u32x4_t)a.v + (u32x4_t)b.v)}; }
  friend MRT_INLINE I32x4 operator-(I32x4 a, I32x4 b) { return {(i32x4_t)((u32x4_t)a.v - (u32x4_t)b.v)}; }
  friend MRT_INLINE I32x4 operator&(I32x4 a, I32x4 b) { return {a.v & b.v}; }
  friend MRT_INLINE I32x4 operator|(I32x4 a, I32x4 b) { return {a.v | b.v}; }
  friend MRT_INLINE I32x4 operator^(I32x4 a, I32x4 b) { return {a.v ^ b.v}; }
  template <int n>
  MRT_INLINE I32x4 shl() const {
    return {(i32x4_t)((u32x4_t)v << n)};
  }
  template <int n>
  MRT_INLINE I32x4 shr() const {
    return {(i32x4_t)((u32x4_t)v >> n)};
  }
  template <int n>
  MRT_INLINE I32x4 sar() const {
    return {v >> n};
  }
};

struct M32x4 {
  i32x4_t v;  // all ones or all zeros a lane
  friend MRT_INLINE M32x4 operator&(M32x4 a, M32x4 b) { return {a.v & b.v}; }
  friend MRT_INLINE M32x4 operator|(M32x4 a, M32x4 b) { return {a.v | b.v}; }
  friend MRT_INLINE M32x4 operator~(M32x4 a) { return {~a.v}; }
  MRT_INLINE bool any() const { return (v[0] | v[1] | v[2] | v[3]) != 0; }
  MRT_INLINE bool all() const { return (v[0] & v[1] & v[2] & v[3]) != 0; }
};

struct F32x4 {
  using Int = I32x4;
  using Mask = M32x4;
  static constexpr int width = 4;
  f32x4_t v;
  static MRT_INLINE F32x4 zero() { return {f32x4_t{0, 0, 0, 0}}; }
  static MRT_INLINE F32x4 set(float x) { return {f32x4_t{x, x, x, x}}; }
  static MRT_INLINE F32x4 load(const float* p) {
    F32x4 r;
    std::memcpy(&r.v, p, 16);
    return r;
  }
  static MRT_INLINE F32x4 load(const float* p, int64_t n) {
    if (n >= 4) return load(p);
    f32x4_t r = {0, 0, 0, 0};
    if (n > 0) r[0] = p[0];
    if (n > 1) r[1] = p[1];
    if (n > 2) r[2] = p[2];
    return {r};
  }
  static MRT_INLINE F32x4 load_half(const uint16_t* p);
  static MRT_INLINE F32x4 load_brain(const uint16_t* p) {
    return from_bits(I32x4{i32x4_t{p[0], p[1], p[2], p[3]}}.shl<16>());
  }
  static MRT_INLINE F32x4 from_int(I32x4 i) { return {__builtin_convertvector(i.v, f32x4_t)}; }
  static MRT_INLINE F32x4 from_bits(I32x4 i) { return {(f32x4_t)i.v}; }
  MRT_INLINE I32x4 bits() const { return {(i32x4_t)v}; }
  MRT_INLINE I32x4 to_int() const;  // to nearest even; in range only
  MRT_INLINE void store(float* p) const { std::memcpy(p, &v, 16); }
  MRT_INLINE void store(float* p, int64_t n) const {
    if (n >= 4) return store(p);
    if (n > 0) p[0] = v[0];
    if (n > 1) p[1] = v[1];
    if (n > 2) p[2] = v[2];
  }
  friend MRT_INLINE F32x4 operator+(F32x4 a, F32x4 b) { return {a.v + b.v}; }
  friend MRT_INLINE F32x4 operator-(F32x4 a, F32x4 b) { return {a.v - b.v}; }
  friend MRT_INLINE F32x4 operator*(F32x4 a, F32x4 b) { return {a.v * b.v}; }
  friend MRT_INLINE F32x4 operator/(F32x4 a, F32x4 b) { return {a.v / b.v}; }
  friend MRT_INLINE F32x4 operator-(F32x4 a) { return {-a.v}; }
  friend MRT_INLINE M32x4 operator<(F32x4 a, F32x4 b) { return {a.v < b.v}; }
  friend MRT_INLINE M32x4 operator<=(F32x4 a, F32x4 b) { return {a.v <= b.v}; }
  friend MRT_INLINE M32x4 operator>(F32x4 a, F32x4 b) { return {a.v > b.v}; }
  friend MRT_INLINE M32x4 operator>=(F32x4 a, F32x4 b) { return {a.v >= b.v}; }
  friend MRT_INLINE M32x4 operator==(F32x4 a, F32x4 b) { return {a.v == b.v}; }
  friend MRT_INLINE M32x4 operator!=(F32x4 a, F32x4 b) { return {a.v != b.v}; }
};
MRT_INLINE F32x4 fma(F32x4 a, F32x4 b, F32x4 c) { return {a.v * b.v + c.v}; }
MRT_INLINE F32x4 select(M32x4 m, F32x4 a, F32x4 b) { return {(f32x4_t)((m.v & (i32x4_t)a.v) | (~m.v & (i32x4_t)b.v))}; }
MRT_INLINE F32x4 min(F32x4 a, F32x4 b) { return {a.v < b.v ? a.v : b.v}; }
MRT_INLINE F32x4 max(F32x4 a, F32x4 b) { return {a.v > b.v ? a.v : b.v}; }
MRT_INLINE F32x4 abs(F32x4 a) { return F32x4::from_bits(a.bits() & I32x4::set(0x7fffffff)); }
MRT_INLINE F32x4 sqrt(F32x4 a) {
  return {f32x4_t{std::sqrt(a.v[0]), std::sqrt(a.v[1]), std::sqrt(a.v[2]), std::sqrt(a.v[3])}};
}
// Exponent and fraction of a float16 in a float's place are 2^-112 times it, small numbers included; infinities and
// NaNs then have an exponent of 143.
MRT_INLINE F32x4 F32x4::load_half(const uint16_t* p) {
  const I32x4 h{i32x4_t{p[0], p[1], p[2], p[3]}};
  const I32x4 magnitude = (h & I32x4::set(0x7fff)).shl<13>();
  const F32x4 x = F32x4::from_bits(magnitude) * F32x4::from_bits(I32x4::set(0x77800000));
  const F32x4 odd = F32x4::from_bits(magnitude | I32x4::set(0x7f800000));
  const F32x4 found = select(x < F32x4::set(65536.0f), x, odd);
  return F32x4::from_bits(found.bits() | (h & I32x4::set(0x8000)).shl<16>());
}
// Adding and taking away 2^23 with the sign of x rounds to an integer; larger values (and NaN) are integers already.
MRT_INLINE F32x4 round(F32x4 a) {
  const I32x4 sign = a.bits() & I32x4::set(INT32_MIN);
  const F32x4 magic = F32x4::from_bits(F32x4::set(8388608.0f).bits() | sign);
  const F32x4 r = F32x4::from_bits(((a + magic) - magic).bits() | sign);
  return select(abs(a) < F32x4::set(8388608.0f), r, a);
}
MRT_INLINE F32x4 floor(F32x4 a) {
  const F32x4 r = round(a);
  return select(r > a, r - F32x4::set(1.0f), r);
}
MRT_INLINE I32x4 F32x4::to_int() const { return {__builtin_convertvector(round(*this).v, i32x4_t)}; }
MRT_INLINE float reduce_add(F32x4 a) { return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]); }
MRT_INLINE float reduce_max(F32x4 a) {
  const float x = a.v[0] > a.v[1] ? a.v[0] : a.v[1], y = a.v[2] > a.v[3] ? a.v[2] : a.v[3];
  return x > y ? x : y;
}
MRT_INLINE float reduce_min(F32x4 a) {
  const float x = a.v[0] < a.v[1] ? a.v[0] : a.v[1], y = a.v[2] < a.v[3] ? a.v[2] : a.v[3];
  return x < y ? x : y;
}
MRT_INLINE F32x4 is_nan_or(F32x4 x, F32x4 other) { return select(x != x, x, other); }

// ---- eight lanes, AVX2 + FMA
// -----------------------------------------------------------------------------------------

#if defined(MRT_SIMD_AVX2)

struct I32x8 {
  static constexpr int width = 8;
  __m256i v;
  static MRT_INLINE I32x8 set(int32_t x) { return {_mm256_set1_epi32(x)}; }
  friend MRT_INLINE I32x8 operator+(I32x8 a, I32x8 b) { return {_mm256_add_epi32(a.v, b.v)}; }
  friend MRT_INLINE I32x8 operator-(I32x8 a, I32x8 b) { return {_mm256_sub_epi32(a.v, b.v)}; }
  friend MRT_INLINE I32x8 operator&(I32x8 a, I32x8 b) { return {_mm256_and_si256(a.v, b.v)}; }
  friend MRT_INLINE I32x8 operator|(I32x8 a, I32x8 b) { return {_mm256_or_si256(a.v, b.v)}; }
  friend MRT_INLINE I32x8 operator^(I32x8 a, I32x8 b) { return {_mm256_xor_si256(a.v, b.v)}; }
  template <int n>
  MRT_INLINE I32x8 shl() const {
    return {_mm256_slli_epi32(v, n)};
  }
  template <int n>
  MRT_INLINE I32x8 shr() const {
    return {_mm256_srli_epi32(v, n)};
  }
  template <int n>
  MRT_INLINE I32x8 sar() const {
    return {_mm256_srai_epi32(v, n)};
  }
};

struct M32x8 {
  __m256 v;
  friend MRT_INLINE M32x8 operator&(M32x8 a, M32x8 b) { return {_mm256_and_ps(a.v, b.v)}; }
  friend MRT_INLINE M32x8 operator|(M32x8 a, M32x8 b) { return {_mm256_or_ps(a.v, b.v)}; }
  friend MRT_INLINE M32x8 operator~(M32x8 a) {
    return {_mm256_xor_ps(a.v, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))};
  }
  MRT_INLINE bool any() const { return _mm256_movemask_ps(v) != 0; }
  MRT_INLINE bool all() const { return _mm256_movemask_ps(v) == 0xff; }
};

// Eight ones then eight zeros: a window that starts at 8 - n is the mask of the first n lanes.
alignas(32) const int32_t kLaneMask8[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

MRT_INLINE __m256i first_lanes8(int64_t n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kLaneMask8 + 8 - n));
}

struct F32x8 {
  using Int = I32x8;
  using Mask = M32x8;
  static constexpr int width = 8;
  __m256 v;
  static MRT_INLINE F32x8 zero() { return {_mm256_setzero_ps()}; }
  static MRT_INLINE F32x8 set(float x) { return {_mm256_set1_ps(x)}; }
  static MRT_INLINE F32x8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static MRT_INLINE F32x8 load(const float* p, int64_t n) { return {_mm256_maskload_ps(p, first_lanes8(n))}; }
  static MRT_INLINE F32x8 load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static MRT_INLINE F32x8 load_brain(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
  }
  static MRT_INLINE F32x8 from_int(I32x8 i) { return {_mm256_cvtepi32_ps(i.v)}; }
  static MRT_INLINE F32x8 from_bits(I32x8 i) { return {_mm256_castsi256_ps(i.v)}; }
  MRT_INLINE I32x8 bits() const { return {_mm256_castps_si256(v)}; }
  MRT_INLINE I32x8 to_int() const { return {_mm256_cvtps_epi32(v)}; }
  MRT_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  // In pieces: a masked store takes a dozen cycles on AMD's cores.
  MRT_INLINE void store(float* p, int64_t n) const {
    if (n >= 8) return store(p);
    __m128 x = _mm256_castps256_ps128(v);
    if (n & 4) {
      _mm_storeu_ps(p, x);
      x = _mm256_extractf128_ps(v, 1);
      p += 4;
    }
    if (n & 2) {
      _mm_storel_pi(reinterpret_cast<__m64*>(p), x);
      x = _mm_movehl_ps(x, x);
      p += 2;
    }
    if (n & 1) _mm_store_ss(p, x);
  }
  friend MRT_INLINE F32x8 operator+(F32x8 a, F32x8 b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend MRT_INLINE F32x8 operator-(F32x8 a, F32x8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend MRT_INLINE F32x8 operator*(F32x8 a, F32x8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend MRT_INLINE F32x8 operator/(F32x8 a, F32x8 b) { return {_mm256_div_ps(a.v, b.v)}; }
  friend MRT_INLINE F32x8 operator-(F32x8 a) { return {_mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f))}; }
  friend MRT_INLINE M32x8 operator<(F32x8 a, F32x8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
  friend MRT_INLINE M32x8 operator<=(F32x8 a, F32x8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
  friend MRT_INLINE M32x8 operator>(F32x8 a, F32x8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
  friend MRT_INLINE M32x8 operator>=(F32x8 a, F32x8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
  friend MRT_INLINE M32x8 operator==(F32x8 a, F32x8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
  friend MRT_INLINE M32x8 operator!=(F32x8 a, F32x8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)}; }
};
MRT_INLINE F32x8 fma(F32x8 a, F32x8 b, F32x8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
MRT_INLINE F32x8 select(M32x8 m, F32x8 a, F32x8 b) { return {_mm256_blendv_ps(b.v, a.v, m.v)}; }
MRT_INLINE F32x8 min(F32x8 a, F32x8 b) { return {_mm256_min_ps(a.v, b.v)}; }
MRT_INLINE F32x8 max(F32x8 a, F32x8 b) { return {_mm256_max_ps(a.v, b.v)}; }
MRT_INLINE F32x8 abs(F32x8 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
MRT_INLINE F32x8 sqrt(F32x8 a) { return {_mm256_sqrt_ps(a.v)}; }
MRT_INLINE F32x8 round(F32x8 a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
MRT_INLINE F32x8 floor(F32x8 a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
MRT_INLINE F32x8 is_nan_or(F32x8 x, F32x8 other) { return select(x != x, x, other); }
MRT_INLINE float reduce_add(F32x8 a) {
  const __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 t = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
}
MRT_INLINE float reduce_max(F32x8 a) {
  const __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 t = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(t, _mm_shuffle_ps(t, t, 1)));
}
MRT_INLINE float reduce_min(F32x8 a) {
  const __m128 s = _mm_min_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 t = _mm_min_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_min_ss(t, _mm_shuffle_ps(t, t, 1)));
}

#endif  // MRT_SIMD_AVX2

// ---- sixteen lanes, AVX-512
// -----------------------------------------------------------------------------------------

#if defined(MRT_SIMD_AVX512)

struct I32x16 {
  static constexpr int width = 16;
  __m512i v;
  static MRT_INLINE I32x16 set(int32_t x) { return {_mm512_set1_epi32(x)}; }
  friend MRT_INLINE I32x16 operator+(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
  friend MRT_INLINE I32x16 operator-(I32x16 a, I32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
  friend MRT_INLINE I32x16 operator&(I32x16 a, I32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
  friend MRT_INLINE I32x16 operator|(I32x16 a, I32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
  friend MRT_INLINE I32x16 operator^(I32x16 a, I32x16 b) { return {_mm512_xor_si512(a.v, b.v)}; }
  template <int n>
  MRT_INLINE I32x16 shl() const {
    return {_mm512_slli_epi32(v, n)};
  }
  template <int n>
  MRT_INLINE I32x16 shr() const {
    return {_mm512_srli_epi32(v, n)};
  }
  template <int n>
  MRT_INLINE I32x16 sar() const {
    return {_mm512_srai_epi32(v, n)};
  }
};

struct M32x16 {
  __mmask16 v;
  friend MRT_INLINE M32x16 operator&(M32x16 a, M32x16 b) { return {_kand_mask16(a.v, b.v)}; }
  friend MRT_INLINE M32x16 operator|(M32x16 a, M32x16 b) { return {_kor_mask16(a.v, b.v)}; }
  friend MRT_INLINE M32x16 operator~(M32x16 a) { return {_knot_mask16(a.v)}; }
  MRT_INLINE bool any() const { return v != 0; }
  MRT_INLINE bool all() const { return v == 0xffff; }
};

MRT_INLINE __mmask16 first_lanes16(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

struct F32x16 {
  using Int = I32x16;
  using Mask = M32x16;
  static constexpr int width = 16;
  __m512 v;
  static MRT_INLINE F32x16 zero() { return {_mm512_setzero_ps()}; }
  static MRT_INLINE F32x16 set(float x) { return {_mm512_set1_ps(x)}; }
  static MRT_INLINE F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static MRT_INLINE F32x16 load(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes16(n), p)}; }
  static MRT_INLINE F32x16 load_half(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static MRT_INLINE F32x16 load_brain(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
  }
  static MRT_INLINE F32x16 from_int(I32x16 i) { return {_mm512_cvtepi32_ps(i.v)}; }
  static MRT_INLINE F32x16 from_bits(I32x16 i) { return {_mm512_castsi512_ps(i.v)}; }
  MRT_INLINE I32x16 bits() const { return {_mm512_castps_si512(v)}; }
  MRT_INLINE I32x16 to_int() const { return {_mm512_cvtps_epi32(v)}; }
  MRT_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  MRT_INLINE void store(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, first_lanes16(n), v); }
  friend MRT_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend MRT_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend MRT_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend MRT_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
  friend MRT_INLINE F32x16 operator-(F32x16 a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
  friend MRT_INLINE M32x16 operator<(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
  friend MRT_INLINE M32x16 operator<=(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
  friend MRT_INLINE M32x16 operator>(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
  friend MRT_INLINE M32x16 operator>=(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
  friend MRT_INLINE M32x16 operator==(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
  friend MRT_INLINE M32x16 operator!=(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ)}; }
};
MRT_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
MRT_INLINE F32x16 select(M32x16 m, F32x16 a, F32x16 b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }
MRT_INLINE F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
MRT_INLINE F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
MRT_INLINE F32x16 abs(F32x16 a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }
MRT_INLINE F32x16 sqrt(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
MRT_INLINE F32x16 round(F32x16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
MRT_INLINE F32x16 floor(F32x16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)}; }
MRT_INLINE F32x16 is_nan_or(F32x16 x, F32x16 other) { return select(x != x, x, other); }
MRT_INLINE F32x8 low_half(F32x16 a) { return {_mm512_castps512_ps256(a.v)}; }
MRT_INLINE F32x8 high_half(F32x16 a) { return {_mm512_extractf32x8_ps(a.v, 1)}; }
MRT_INLINE float reduce_add(F32x16 a) { return reduce_add(low_half(a) + high_half(a)); }
MRT_INLINE float reduce_max(F32x16 a) { return reduce_max(max(low_half(a), high_half(a))); }
MRT_INLINE float reduce_min(F32x16 a) { return reduce_min(min(low_half(a), high_half(a))); }

#endif  // MRT_SIMD_AVX512

// x between two numbers, neither of which is NaN; NaN stays. Which zero the result is where x is the other one is open.
template <typename V>
MRT_INLINE V clamp(V lo, V hi, V x) {
  return min(hi, max(lo, x));
}

// Whether the type has fma_lane, a product with one number of a register (simd/by_lane.h).
template <typename V>
constexpr bool kMultipliesByLane = false;

}  // namespace
}  // namespace mrt

#if defined(__aarch64__)
#include "simd/vec_neon.h"
#endif
