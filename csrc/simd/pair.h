// Two vectors as one; a pair of pairs is four. An elementary function is a long chain of operations that wait for each
// other: what is written for a vector and run over several keeps the units busy meanwhile. The interface is that of
// simd/vec.h, as far as simd/math.h uses it.
#pragma once

#include "simd/vec.h"

namespace mrt {
namespace {

template <typename I>
struct IntPair {
  I a, b;
  static MRT_INLINE IntPair set(int32_t x) { return {I::set(x), I::set(x)}; }
  friend MRT_INLINE IntPair operator+(IntPair x, IntPair y) { return {x.a + y.a, x.b + y.b}; }
  friend MRT_INLINE IntPair operator-(IntPair x, IntPair y) { return {x.a - y.a, x.b - y.b}; }
  friend MRT_INLINE IntPair operator&(IntPair x, IntPair y) { return {x.a & y.a, x.b & y.b}; }
  friend MRT_INLINE IntPair operator|(IntPair x, IntPair y) { return {x.a | y.a, x.b | y.b}; }
  template <int n>
  MRT_INLINE IntPair shl() const {
    return {a.template shl<n>(), b.template shl<n>()};
  }
  template <int n>
  MRT_INLINE IntPair sar() const {
    return {a.template sar<n>(), b.template sar<n>()};
  }
};

template <typename M>
struct MaskPair {
  M a, b;
};

template <typename V>
struct Pair {
  using Int = IntPair<typename V::Int>;
  using Mask = MaskPair<typename V::Mask>;
  V a, b;
  static MRT_INLINE Pair zero() { return {V::zero(), V::zero()}; }
  static MRT_INLINE Pair set(float x) { return {V::set(x), V::set(x)}; }
  static MRT_INLINE Pair from_int(Int x) { return {V::from_int(x.a), V::from_int(x.b)}; }
  static MRT_INLINE Pair from_bits(Int x) { return {V::from_bits(x.a), V::from_bits(x.b)}; }
  MRT_INLINE Int bits() const { return {a.bits(), b.bits()}; }
  friend MRT_INLINE Pair operator+(Pair x, Pair y) { return {x.a + y.a, x.b + y.b}; }
  friend MRT_INLINE Pair operator-(Pair x, Pair y) { return {x.a - y.a, x.b - y.b}; }
  friend MRT_INLINE Pair operator*(Pair x, Pair y) { return {x.a * y.a, x.b * y.b}; }
  friend MRT_INLINE Pair operator/(Pair x, Pair y) { return {x.a / y.a, x.b / y.b}; }
  friend MRT_INLINE Pair operator-(Pair x) { return {-x.a, -x.b}; }
  friend MRT_INLINE Mask operator<(Pair x, Pair y) { return {x.a < y.a, x.b < y.b}; }
  friend MRT_INLINE Mask operator>(Pair x, Pair y) { return {x.a > y.a, x.b > y.b}; }
  friend MRT_INLINE Mask operator>=(Pair x, Pair y) { return {x.a >= y.a, x.b >= y.b}; }
  friend MRT_INLINE Mask operator==(Pair x, Pair y) { return {x.a == y.a, x.b == y.b}; }
};
template <typename V>
MRT_INLINE Pair<V> fma(Pair<V> x, Pair<V> y, Pair<V> z) {
  return {fma(x.a, y.a, z.a), fma(x.b, y.b, z.b)};
}
template <typename V>
MRT_INLINE Pair<V> min(Pair<V> x, Pair<V> y) {
  return {min(x.a, y.a), min(x.b, y.b)};
}
template <typename V>
MRT_INLINE Pair<V> max(Pair<V> x, Pair<V> y) {
  return {max(x.a, y.a), max(x.b, y.b)};
}
template <typename M, typename V>
MRT_INLINE Pair<V> select(MaskPair<M> m, Pair<V> x, Pair<V> y) {
  return {select(m.a, x.a, y.a), select(m.b, x.b, y.b)};
}
template <typename V>
MRT_INLINE Pair<V> abs(Pair<V> x) {
  return {abs(x.a), abs(x.b)};
}
template <typename V>
MRT_INLINE Pair<V> sqrt(Pair<V> x) {
  return {sqrt(x.a), sqrt(x.b)};
}

}  // namespace
}  // namespace mrt
