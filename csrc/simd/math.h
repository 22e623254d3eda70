// Elementary functions of float32 vectors, written once for every width of simd/vec.h.
//
// Sources. Range reduction of exp and log, with ln 2 split so that n * hi is exact: W. J. Cody and W. Waite, Software
// Manual for the Elementary Functions (1980), with the split of S. Moshier's Cephes. Rounding by a magic number, so
// that no float is converted to an integer (which a NaN would make undefined). All polynomials are this project's own:
// weighted least squares on Chebyshev nodes with Lawson's iteration towards the minimax (C. L. Lawson, 1961), in 40
// digits; the approximation error is given with each. The rounding of the evaluation comes on top: tests/kernels holds
// every function to its bound.
//
// NaN in, NaN out. Infinities and zeros follow the function's limits, as C's math.h. Denormal arguments are honoured;
// denormal results where it says so. What is `inf * 0` in the formula (silu, gelu, mish at -inf) is NaN, as in torch.
#pragma once

#include "simd/vec.h"

namespace mrt {
namespace {

template <typename V>
MRT_INLINE V sign_of(V x) {
  return V::from_bits(x.bits() & V::Int::set(INT32_MIN));
}
// |magnitude| with the sign of x; the magnitude must not be negative.
template <typename V>
MRT_INLINE V with_sign_of(V magnitude, V x) {
  return V::from_bits(magnitude.bits() | (x.bits() & V::Int::set(INT32_MIN)));
}

// 1.5 * 2^23: x + kRoundMagic has round(x) in its low bits, |x| < 2^21.
constexpr float kRoundMagic = 12582912.0f;
// 2^n for an integer n in [-127, 128] given as z = n + kRoundMagic; 2^-127 comes out as 0, 2^128 as infinity.
template <typename V>
MRT_INLINE V pow2_of_rounded(V z) {
  return V::from_bits(z.bits().template shl<23>() + V::Int::set(0x3f800000));
}

// e^r - 1 for |r| <= ln(2) / 2; error of the polynomial 3.2e-9.
template <typename V>
MRT_INLINE V expm1_reduced(V r) {
  V q = V::set(1.395025204e-3f);
  q = fma(q, r, V::set(8.368888217e-3f));
  q = fma(q, r, V::set(4.166620986e-2f));
  q = fma(q, r, V::set(1.666651884e-1f));
  q = fma(q, r, V::set(0.5f));
  return fma(q, r * r, r);
}

// x = n ln 2 + r: returns r, and n + kRoundMagic in z.
template <typename V>
MRT_INLINE V reduce_ln2(V x, V* z) {
  *z = fma(x, V::set(1.44269504f), V::set(kRoundMagic));
  const V n = *z - V::set(kRoundMagic);
  return fma(n, V::set(2.12194440e-4f), fma(n, V::set(-0.693359375f), x));
}

// e^x; results below 2^-126.5 are 0 and results above 2^127.5 are infinity. For softmax, sigmoid and the like.
template <typename V>
MRT_INLINE V exp_flush(V x) {
  x = min(V::set(88.8f), max(V::set(-88.2f), x));
  V z;
  const V r = reduce_ln2(x, &z);
  return (expm1_reduced(r) + V::set(1.0f)) * pow2_of_rounded(z);
}

// e^x over the whole range, denormal results included.
template <typename V>
MRT_INLINE V exp(V x) {
  x = min(V::set(89.0f), max(V::set(-105.0f), x));
  V z;
  const V r = reduce_ln2(x, &z);
  // 2^n as 2^(n/2) 2^(n - n/2): n reaches from -151 to 128.
  const typename V::Int n = z.bits() - V::set(kRoundMagic).bits();
  const typename V::Int half = n.template sar<1>(), bias = V::Int::set(127);
  const V s1 = V::from_bits((half + bias).template shl<23>());
  const V s2 = V::from_bits((n - half + bias).template shl<23>());
  return (expm1_reduced(r) + V::set(1.0f)) * s1 * s2;
}

// e^x - 1, accurate at 0.
template <typename V>
MRT_INLINE V expm1(V x) {
  x = min(V::set(89.0f), max(V::set(-20.0f), x));
  V z;
  const V p = expm1_reduced(reduce_ln2(x, &z));
  const V half = pow2_of_rounded(z - V::set(1.0f));  // 2^(n-1), so that n = 128 does not overflow on the way
  const V y = fma(p, half, half - V::set(0.5f));
  return y + y;
}

// log(1 + f) for sqrt(1/2) - 1 <= f <= sqrt(2) - 1; relative error of the polynomial 1e-8.
template <typename V>
MRT_INLINE V log1p_reduced(V f) {
  V p = V::set(-7.859709248e-2f);
  p = fma(p, f, V::set(1.288164324e-1f));
  p = fma(p, f, V::set(-1.312870165e-1f));
  p = fma(p, f, V::set(1.418117971e-1f));
  p = fma(p, f, V::set(-1.662455790e-1f));
  p = fma(p, f, V::set(2.000228753e-1f));
  p = fma(p, f, V::set(-2.500081036e-1f));
  p = fma(p, f, V::set(3.333331670e-1f));
  const V f2 = f * f;
  return fma(f2, fma(p, f, V::set(-0.5f)), f);
}

// Natural logarithm; log(0) = -inf, log of a negative number is NaN.
template <typename V>
MRT_INLINE V log(V x) {
  const typename V::Mask tiny = x < V::set(1.17549435e-38f);
  const V scaled = select(tiny, x * V::set(8388608.0f), x);
  const typename V::Int e = (scaled.bits() - V::Int::set(0x3f3504f3)).template sar<23>();
  const V n = V::from_int(e) - select(tiny, V::set(23.0f), V::zero());
  const V f = V::from_bits(scaled.bits() - e.template shl<23>()) - V::set(1.0f);
  V y = log1p_reduced(f);
  y = fma(n, V::set(0.693359375f), fma(n, V::set(-2.12194440e-4f), y));
  const V infinity = V::set(__builtin_inff());
  y = select(x == infinity, x, y);
  y = select(x == V::zero(), -infinity, y);
  return select(x >= V::zero(), y, V::set(__builtin_nanf("")));
}

// log(1 + u) for 0 <= u <= 1.
template <typename V>
MRT_INLINE V log1p_unit(V u) {
  const typename V::Mask upper = u > V::set(0.414213562f);
  const V f = select(upper, (u - V::set(1.0f)) * V::set(0.5f), u);  // (1 + u) / 2 - 1, exact
  return log1p_reduced(f) + select(upper, V::set(0.693147181f), V::zero());
}

// (e^2|x| - 1) / (e^2|x| + 1) with the sign of x.
template <typename V>
MRT_INLINE V tanh(V x) {
  const V t = min(V::set(10.0f), abs(x));
  const V e = expm1(t + t);
  return with_sign_of(e / (e + V::set(2.0f)), x);
}

// 1 / (1 + e^-x) with both sides of the quotient times 2^-64, so that e^-x has room up to 2^150 and results may be
// denormal.
template <typename V>
MRT_INLINE V sigmoid(V x) {
  V z;
  const V r = reduce_ln2(min(V::set(104.5f), max(V::set(-43.0f), -x)), &z);
  const V scale = V::from_bits(z.bits().template shl<23>() + V::Int::set(0x1f800000));
  const V one = V::set(5.42101086e-20f);
  return one / fma(expm1_reduced(r) + V::set(1.0f), scale, one);
}

// 2^-p for p >= 0; 0 from 126.5 up. Error of the polynomial 1.9e-9.
template <typename V>
MRT_INLINE V exp2_of_minus(V p) {
  p = min(V::set(127.0f), p);
  const V z = V::set(kRoundMagic) - p;
  const V f = (V::set(kRoundMagic) - z) - p;
  V q = V::set(1.547508635e-4f);
  q = fma(q, f, V::set(1.340033619e-3f));
  q = fma(q, f, V::set(9.618008434e-3f));
  q = fma(q, f, V::set(5.550327576e-2f));
  q = fma(q, f, V::set(2.402265131e-1f));
  q = fma(q, f, V::set(6.931472064e-1f));
  return fma(q, f, V::set(1.0f)) * pow2_of_rounded(z);
}

// Below 1: x times a polynomial of x^2 (relative error 1.2e-9). Above: 1 - 2^-q(|x|), q approximating -log2(erfc) on
// [0.95, 4] (error 1.9e-9 of erf); erf(4) is 1 in float32.
template <typename V>
MRT_INLINE V erf(V x) {
  const V a = abs(x), x2 = x * x;
  V s = V::set(7.853890693e-5f);
  s = fma(s, x2, V::set(-8.010201346e-4f));
  s = fma(s, x2, V::set(5.188328407e-3f));
  s = fma(s, x2, V::set(-2.685381221e-2f));
  s = fma(s, x2, V::set(1.128358515e-1f));
  s = fma(s, x2, V::set(-3.761262582e-1f));
  s = fma(s, x2, V::set(1.28379166e-1f));
  const V small = fma(s, x, x);
  const V t = min(V::set(4.0f), a);
  V q = V::set(-2.776059036e-4f);
  q = fma(q, t, V::set(4.340309606e-3f));
  q = fma(q, t, V::set(-3.186524574e-2f));
  q = fma(q, t, V::set(1.495201505e-1f));
  q = fma(q, t, V::set(9.197442612e-1f));
  q = fma(q, t, V::set(1.626601482f));
  q = fma(q, t, V::set(3.533350346e-4f));
  const V large = with_sign_of(V::set(1.0f) - exp2_of_minus(q), x);
  return select(a < V::set(1.0f), small, large);
}

// x Phi(x), Phi the normal distribution: x (1 + erf(x / sqrt 2)) / 2. The tail Phi(-|x|) is 2^-h(|x|), h fitted on
// [0, 5.5]: 9e-8 of x everywhere, and no cancellation at negative x (relative error of the tail 5e-5 at -4).
template <typename V>
MRT_INLINE V gelu(V x) {
  const V t = abs(x);
  V h = V::set(1.639441572e-6f);
  h = fma(h, t, V::set(-2.528423708e-5f));
  h = fma(h, t, V::set(1.207546682e-4f));
  h = fma(h, t, V::set(2.899517010e-4f));
  h = fma(h, t, V::set(-7.254886084e-3f));
  h = fma(h, t, V::set(5.262165187e-2f));
  h = fma(h, t, V::set(4.591692353e-1f));
  h = fma(h, t, V::set(1.151109692f));
  h = fma(h, t, V::set(0.9999999094f));
  const V tail = exp2_of_minus(h);
  return x * select(x < V::zero(), tail, V::set(1.0f) - tail);
}

// x / (1 + e^-x)
template <typename V>
MRT_INLINE V silu(V x) {
  return x / (V::set(1.0f) + exp_flush(-x));
}

// x (1 + tanh(u)) / 2 = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
template <typename V>
MRT_INLINE V gelu_tanh(V x) {
  const V minus_2u = x * fma(x * x, V::set(-7.135481627e-2f), V::set(-1.595769122f));
  return x / (V::set(1.0f) + exp_flush(minus_2u));
}

// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)
template <typename V>
MRT_INLINE V softplus(V x) {
  return max(V::zero(), x) + log1p_unit(exp_flush(-abs(x)));
}

// x tanh(softplus(x)) = x n / (n + 2), n = e^x (e^x + 2); for x > 20 that is x.
template <typename V>
MRT_INLINE V mish(V x) {
  const V e = exp_flush(min(V::set(20.0f), x));
  const V n = e * (e + V::set(2.0f));
  return x * (n / (n + V::set(2.0f)));
}

}  // namespace
}  // namespace mrt
