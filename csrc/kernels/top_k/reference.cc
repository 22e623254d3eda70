// top_k by the definition: an element's place is the number of those before it.
#include <cmath>
#include <cstring>

#include "kernels/top_k/top_k_kernels.h"

namespace mrt {
namespace {

template <typename T>
T load(const char* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

double half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double size = exponent == 31  ? (fraction != 0 ? NAN : INFINITY)
                      : exponent == 0 ? std::ldexp(fraction, -24)
                                      : std::ldexp(1024 + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -size : size;
}

double real(Number number, const char* p) {
  if (number == Number::f16) return half(load<uint16_t>(p));
  if (number == Number::f64) return load<double>(p);
  const uint32_t bits = number == Number::bf16 ? static_cast<uint32_t>(load<uint16_t>(p)) << 16 : load<uint32_t>(p);
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

bool is_float(Number number) {
  return number == Number::f16 || number == Number::bf16 || number == Number::f32 || number == Number::f64;
}

int64_t integer(Number number, const char* p) {
  switch (number) {
    case Number::u8:
      return load<uint8_t>(p);
    case Number::s8:
      return load<int8_t>(p);
    case Number::u16:
      return load<uint16_t>(p);
    case Number::s16:
      return load<int16_t>(p);
    case Number::u32:
      return load<uint32_t>(p);
    case Number::s32:
      return load<int32_t>(p);
    default:
      return load<int64_t>(p);
  }
}

bool less(Number number, const char* a, const char* b) {
  if (number == Number::u64) return load<uint64_t>(a) < load<uint64_t>(b);
  if (!is_float(number)) return integer(number, a) < integer(number, b);
  const double x = real(number, a), y = real(number, b);
  return x < y || (std::isnan(y) && !std::isnan(x));
}

}  // namespace

bool is_nan_reference(Number number, const char* element) {
  return is_float(number) && std::isnan(real(number, element));
}

int64_t place_reference(Number number, bool largest, const char* x, int64_t n, int64_t stride, int64_t i) {
  const int64_t step = stride * static_cast<int64_t>(bytes_of(number));
  const char* mine = x + i * step;
  int64_t place = 0;
  for (int64_t j = 0; j < n; ++j) {
    const char* other = x + j * step;
    const bool before = largest ? less(number, mine, other) : less(number, other, mine);
    const bool after = largest ? less(number, other, mine) : less(number, mine, other);
    place += before || (!after && j < i);
  }
  return place;
}

}  // namespace mrt
