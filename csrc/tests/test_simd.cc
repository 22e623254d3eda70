// What simd/vec.h says of its vectors, held for those that the baseline of this CPU has.
#include <cmath>
#include <cstring>
#include <limits>

#include "simd/transpose8x8.h"
#include "simd/vec.h"
#include "tests/check.h"

using namespace mrt;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
constexpr float kNumbers[] = {0.0f,   -0.0f, 1.0f,       -1.0f, 0.5f, -0.5f, 1.5f, 2.5f,       -2.5f,
                              1e-40f, 3e38f, 8388609.0f, -3.7f, kInf, -kInf, kNan, 0.49999997f};

// Bits, or both not a number.
bool same(float a, float b) { return (a != a && b != b) || std::memcmp(&a, &b, sizeof(a)) == 0; }

template <typename V, typename Vector, typename One>
void holds(Vector&& vector, One&& one) {
  for (const float a : kNumbers)
    for (const float b : kNumbers) {
      float have[V::width];
      vector(V::set(a), V::set(b)).store(have);
      for (const float x : have) CHECK(same(x, one(a, b)));
    }
}

template <typename V>
void check_elements() {
  holds<V>([](V a, V b) { return min(a, b); }, [](float a, float b) { return a < b ? a : b; });
  holds<V>([](V a, V b) { return max(a, b); }, [](float a, float b) { return a > b ? a : b; });
  holds<V>([](V a, V b) { return select(a < b, a, b); }, [](float a, float b) { return a < b ? a : b; });
  holds<V>([](V a, V b) { return select(a <= b, a, b); }, [](float a, float b) { return a <= b ? a : b; });
  holds<V>([](V a, V b) { return select(a != b, a, b); }, [](float a, float b) { return a != b ? a : b; });
  holds<V>([](V a, V b) { return select(~(a == b), a, b); }, [](float a, float b) { return a != b ? a : b; });
  holds<V>([](V a, V b) { return is_nan_or(a, b); }, [](float a, float b) { return a != a ? a : b; });
  holds<V>([](V a, V b) { return a / b; }, [](float a, float b) { return a / b; });
  holds<V>([](V a, V) { return round(a); }, [](float a, float) { return std::nearbyintf(a); });
  holds<V>([](V a, V) { return floor(a); }, [](float a, float) { return std::floor(a); });
  holds<V>([](V a, V) { return abs(a); }, [](float a, float) { return std::fabs(a); });
  holds<V>([](V a, V) { return -a; }, [](float a, float) { return -a; });
  // A clamp keeps a NaN.
  float have[V::width];
  clamp(V::set(-1.0f), V::set(2.0f), V::set(kNan)).store(have);
  CHECK(have[0] != have[0]);
  for (const float x : {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 2147483000.0f})
    CHECK_EQ(reduce_max(V::from_int(V::set(x).to_int())), std::nearbyintf(x));
}

template <typename V>
void check_lanes() {
  float from[V::width], to[V::width];
  for (int i = 0; i < V::width; ++i) from[i] = static_cast<float>(i + 1);
  for (int n = 0; n <= V::width; ++n) {
    V::load(from, n).store(to);
    for (int i = 0; i < V::width; ++i) CHECK_EQ(to[i], i < n ? from[i] : 0.0f);
    for (float& x : to) x = -1.0f;
    V::load(from).store(to, n);
    for (int i = 0; i < V::width; ++i) CHECK_EQ(to[i], i < n ? from[i] : -1.0f);
    // One lane of a mask, or all.
    const auto below = V::load(from) <= V::set(static_cast<float>(n));
    CHECK_EQ(below.any(), n > 0);
    CHECK_EQ(below.all(), n == V::width);
  }
  CHECK_EQ(reduce_add(V::load(from)), V::width * (V::width + 1) / 2.0f);
  CHECK_EQ(reduce_max(V::load(from)), static_cast<float>(V::width));
  CHECK_EQ(reduce_min(V::load(from)), 1.0f);
}

float of_half(uint16_t h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  float x = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                          : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  if (exponent == 31) x = fraction == 0 ? kInf : kNan;
  return (h & 0x8000) != 0 ? -x : x;
}

template <typename V>
void check_sixteen_bits() {
  for (uint32_t first = 0; first < 65536; first += V::width) {
    uint16_t bits[V::width];
    for (int i = 0; i < V::width; ++i) bits[i] = static_cast<uint16_t>(first + static_cast<uint32_t>(i));
    float half[V::width], brain[V::width];
    V::load_half(bits).store(half);
    V::load_brain(bits).store(brain);
    for (int i = 0; i < V::width; ++i) {
      CHECK(same(half[i], of_half(bits[i])));
      const uint32_t wide = static_cast<uint32_t>(bits[i]) << 16;
      float want;
      std::memcpy(&want, &wide, sizeof(want));
      CHECK(same(brain[i], want));
    }
  }
}

}  // namespace

TEST(simd, four_lanes) {
  check_elements<F32x4>();
  check_lanes<F32x4>();
  check_sixteen_bits<F32x4>();
}

#if defined(__aarch64__)
TEST(simd, four_lanes_of_neon) {
  check_elements<F32x4n>();
  check_lanes<F32x4n>();
  check_sixteen_bits<F32x4n>();
}

TEST(simd, products_with_a_lane_are_fused) {
  const float a[4] = {1.0f + 0x1p-12f, 2.0f, 3.0f, 4.0f};
  const F32x4n x = F32x4n::load(a), c = F32x4n::set(-1.0f);
  float have[4];
  F32x4n::fma_lane<0>(x, F32x4n::set(a[0]), c).store(have);
  CHECK_EQ(have[3], std::fma(a[0], a[0], -1.0f));
  F32x4n::fma_lane<3>(x, F32x4n::set(0.5f), c).store(have);
  CHECK_EQ(have[0], 1.0f);
}

TEST(simd, squares_are_transposed) {
  float from[8 * 9], to[8 * 10];
  for (int i = 0; i < 8 * 9; ++i) from[i] = static_cast<float>(i);
  transpose8x8(from, 9, to, 10);
  for (int r = 0; r < 8; ++r)
    for (int c = 0; c < 8; ++c) CHECK_EQ(to[c * 10 + r], from[r * 9 + c]);
}
#endif
