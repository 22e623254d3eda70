// Philox4x32-10 and what its words become, one block at a time. The results are the same bits wherever they are
// computed: integers, and additions, products, quotients and roots of floats in a fixed order, without contraction
// (csrc/CMakeLists.txt) and without the C library.
#pragma once

#include <cstdint>

#include "kernels/random/random_kernels.h"
#include "simd/vec.h"

namespace mrt {
namespace {

struct Words {
  uint32_t w[4];
};

// J. Salmon, M. Moraes, R. Dror, D. Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
MRT_INLINE Words philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c0, b = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(b);
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

MRT_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}
MRT_INLINE float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}
MRT_INLINE uint64_t bits_of(double x) {
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}
MRT_INLINE double double_of(uint64_t bits) {
  double x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

// ---- uniform numbers: the upper 24 or 53 bits, in [0, 1) -----------------------------------------------------------

MRT_INLINE float uniform(uint32_t word) { return static_cast<float>(static_cast<int32_t>(word >> 8)) * 0x1p-24f; }

// The upper 53 bits of 64, a whole number.
MRT_INLINE double upper53(uint32_t low, uint32_t high) {
  const double upper = static_cast<int32_t>(high >> 6);
  return upper * 0x1p27 + static_cast<int32_t>((high & 63) << 21 | low >> 11);
}

// ---- normal numbers: G. Box, M. Muller: A note on the generation of random normal deviates (1958) -------------------
//
// sqrt(-2 ln u) times cosine and sine of an angle. u is (word + 1/2) / 2^bits, so that tails reach 6.7 (float32)
// and 8.6 (float64) standard deviations. Of the angle's word the two upper bits are a number of quarter turns, the
// others a signed angle of at most an eighth of a turn either way.

// Logarithm of (word + 1/2) / 2^32, by the polynomial of S. Moshier's Cephes library (logf). Where that is near 1, its
// distance from 1 comes from the word itself.
MRT_INLINE float log_f32(uint32_t word) {
  const float upper = static_cast<float>(static_cast<int32_t>(word >> 16)) * 65536.0f;
  const float u = (upper + static_cast<float>(static_cast<int32_t>(word & 0xffff)) + 0.5f) * 0x1p-32f;
  const uint32_t moved = bits_of(u) - 0x3f3504f3;  // sqrt(1/2)
  const int32_t exponent = static_cast<int32_t>(moved) >> 23;
  const float e = static_cast<float>(exponent);
  const float left = (static_cast<float>(static_cast<int32_t>(~word)) + 0.5f) * -0x1p-32f;
  const float f = exponent == 0 ? left : float_of((moved & 0x7fffff) + 0x3f3504f3) - 1.0f, z = f * f;
  float p = 7.0376836292e-2f * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  p = p * f * z - e * 2.12194440e-4f - 0.5f * z;
  return e * 0.693359375f + (f + p);
}

// Two words to two numbers. Sines and cosines by Cephes' polynomials (sinf, cosf).
MRT_INLINE void normal_f32(uint32_t size, uint32_t turn, float* x, float* y) {
  const float r = __builtin_sqrtf(0.0f - 2.0f * log_f32(size));
  const float t = static_cast<float>(static_cast<int32_t>(turn << 2)) * 3.6572951e-10f;  // pi / 4 / 2^31
  const float z = t * t;
  float s = -1.9515295891e-4f * z + 8.3321608736e-3f;
  s = (s * z - 1.6666654611e-1f) * z * t + t;
  float c = 2.443315711809948e-5f * z - 1.388731625493765e-3f;
  c = (c * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
  const uint32_t quarter = turn >> 30, odd = 0 - (quarter & 1);
  const uint32_t cosine = (bits_of(s) & odd) | (bits_of(c) & ~odd), sine = (bits_of(c) & odd) | (bits_of(s) & ~odd);
  *x = r * float_of(cosine ^ ((quarter + 1) & 2) << 30);
  *y = r * float_of(sine ^ (quarter & 2) << 30);
}

// Logarithm of a double in [2^-54, 1], by the polynomial of Sun's fdlibm (e_log.c).
MRT_INLINE double log_f64(double u) {
  const uint64_t moved = bits_of(u) + 0x3ff0000000000000 - 0x3fe6a09e00000000;  // about sqrt(1/2)
  // The exponent as a number: the lower bits of a double of 2^52 and more are a whole number.
  const double e = double_of(moved >> 52 | 0x4330000000000000) - (0x1p52 + 1023);
  const double f = double_of((moved & 0xfffffffffffff) + 0x3fe6a09e00000000) - 1.0;
  const double s = f / (2.0 + f), z = s * s, w = z * z, half = 0.5 * f * f;
  const double even = w * (3.999999999940941908e-1 + w * (2.222219843214978396e-1 + w * 1.531383769920937332e-1));
  const double odd = z * (6.666666666666735130e-1 +
                          w * (2.857142874366239149e-1 + w * (1.818357216161805012e-1 + w * 1.479819860511658591e-1)));
  return e * 6.93147180369123816490e-1 - ((half - (s * (half + (even + odd)) + e * 1.90821492927058770002e-10)) - f);
}

// Four words to two numbers. Sines and cosines by fdlibm's polynomials (k_sin.c, k_cos.c).
MRT_INLINE void normal_f64(const uint32_t* w, double* x, double* y) {
  const double r = __builtin_sqrt(0.0 - 2.0 * log_f64((upper53(w[0], w[1]) + 0.5) * 0x1p-53));
  const double turn = static_cast<double>(static_cast<int32_t>(w[3] << 2)) +
                      static_cast<double>(static_cast<int32_t>(w[2] >> 1)) * 0x1p-29;
  const double t = turn * (7.85398163397448279e-1 * 0x1p-31), z = t * t;
  const double s_tail =
      8.33333333332248946124e-3 +
      z * (-1.98412698298579493134e-4 +
           z * (2.75573137070700676789e-6 + z * (-2.50507602534068634195e-8 + z * 1.58969099521155010221e-10)));
  const double s = t + z * t * (-1.66666666666666324348e-1 + z * s_tail);
  const double c_tail =
      z *
      (4.16666666666666019037e-2 +
       z * (-1.38888888888741095749e-3 +
            z * (2.48015872894767294178e-5 + z * (-2.75573143513906633035e-7 +
                                                  z * (2.08757232129817482790e-9 + z * -1.13596475577881948265e-11)))));
  const double c = 1.0 - (0.5 * z - z * c_tail);
  const uint64_t quarter = w[3] >> 30, odd = 0 - (quarter & 1);
  const uint64_t cosine = (bits_of(s) & odd) | (bits_of(c) & ~odd), sine = (bits_of(c) & odd) | (bits_of(s) & ~odd);
  *x = r * double_of(cosine ^ ((quarter + 1) & 2) << 62);
  *y = r * double_of(sine ^ (quarter & 2) << 62);
}

}  // namespace
}  // namespace mrt
