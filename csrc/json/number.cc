#include "number.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

namespace maas_rt_json {
namespace {

// ---- decimals -------------------------------------------------------------------------------------------------------

// A number's text as 0.d1d2d3... times 10^exponent, d1 not 0. The digits stay where they are.
struct Decimal {
  const char* digits;  // d1, and behind it up to `end`; a point may lie between
  const char* end;
  int64_t exponent;  // without meaning for 0, which has no digits
};

Decimal decimal(const char* p, const char* end) {
  constexpr int64_t kFar = int64_t{1} << 40;  // beyond what any body's digits make up for
  if (p != end && *p == '-') ++p;
  Decimal d{nullptr, nullptr, 0};
  bool behind_point = false;
  for (; p != end && (is_digit(*p) || *p == '.'); ++p) {
    if (*p == '.') {
      behind_point = true;
      continue;
    }
    if (!d.digits && *p != '0') d.digits = p;
    if (d.digits && !behind_point) ++d.exponent;
    if (!d.digits && behind_point) --d.exponent;
  }
  d.end = p;
  if (!d.digits) d.digits = p;
  if (p != end && (*p == 'e' || *p == 'E')) {
    ++p;
    const bool negative = p != end && *p == '-';
    if (p != end && (*p == '+' || *p == '-')) ++p;
    int64_t exponent = 0;
    for (; p != end && is_digit(*p); ++p) exponent = exponent < kFar ? exponent * 10 + (*p - '0') : exponent;
    d.exponent += negative ? -exponent : exponent;
  }
  return d;
}

// The sign of a - b, of numbers that are not 0.
int compare(Decimal a, Decimal b) {
  if (a.exponent != b.exponent) return a.exponent < b.exponent ? -1 : 1;
  const auto next = [](Decimal* d) {
    if (d->digits != d->end && *d->digits == '.') ++d->digits;
    return d->digits == d->end ? '0' : *d->digits++;
  };
  while (a.digits != a.end || b.digits != b.end) {
    const char x = next(&a), y = next(&b);
    if (x != y) return x < y ? -1 : 1;
  }
  return 0;
}

// ---- 16-bit floats --------------------------------------------------------------------------------------------------

template <typename T>
struct Layout;
template <>
struct Layout<Half> {
  static constexpr int kMantissa = 10, kExponent = 5;
};
template <>
struct Layout<Bfloat> {
  static constexpr int kMantissa = 7, kExponent = 8;
};
template <typename T>
constexpr int kSmallest = 2 - (1 << (Layout<T>::kExponent - 1));  // exponent of the smallest normal value
template <typename T>
constexpr uint16_t kInfinity = ((1 << Layout<T>::kExponent) - 1) << Layout<T>::kMantissa;

// The pattern of the number in [p, end), of which `nearest`, not negative, is the nearest double; its sign is ignored.
//
// A number is rounded to 16 bits by way of a double, and once only: what decides is on which side of the middle between
// two neighbours it lies, every such middle is a double, and rounding to double never carries a number across one. So
// the double decides unless it is itself a middle: then the number may be that, or a little more or less, and its
// decimal digits are compared with the middle's, which are few enough to be written out.
template <typename T>
uint16_t round_to(double nearest, const char* p, const char* end) {
  constexpr int kMantissa = Layout<T>::kMantissa, kBits = 52;  // of a double
  uint64_t pattern;
  std::memcpy(&pattern, &nearest, sizeof pattern);
  const int exponent = static_cast<int>(pattern >> kBits) - 1023;
  const int dropped = kBits - kMantissa + std::max(kSmallest<T> - exponent, 0);
  if (dropped > kBits + 1) return 0;  // less than half of the smallest value
  const uint64_t one = 1, mantissa = (pattern & ((one << kBits) - 1)) | one << kBits;
  const uint64_t rest = mantissa & ((one << dropped) - 1), half = one << (dropped - 1);
  auto bits = static_cast<uint32_t>(mantissa >> dropped);
  if (rest == half) {
    char middle[160];  // of at most 97 digits: m * 2^-134 with m < 2^9
    const auto written = std::to_chars(middle, middle + sizeof middle, nearest, std::chars_format::scientific, 120);
    const int side = compare(decimal(p, end), decimal(middle, written.ptr));
    bits += side > 0 || (side == 0 && bits % 2 != 0);
  } else {
    bits += rest > half;
  }
  // A carry out of the mantissa is one into the exponent.
  bits += static_cast<uint32_t>(std::max(exponent - kSmallest<T>, 0)) << kMantissa;
  return static_cast<uint16_t>(std::min<uint32_t>(bits, kInfinity<T>));
}

template <typename T>
Reading read_short(const char* p, const char* end, T* value, const char** next) {
  double nearest = 0;
  const Reading reading = read_float(p, end, &nearest, next);
  if (reading != Reading::kOk) return reading;
  const uint16_t bits = round_to<T>(std::fabs(nearest), p, *next);
  value->bits = static_cast<uint16_t>(*p == '-' ? bits | 0x8000 : bits);
  return bits == kInfinity<T> ? Reading::kTooLarge : Reading::kOk;
}

// The value of a pattern that is finite and not negative.
template <typename T>
double value_of(uint16_t bits) {
  const int exponent = std::max(bits >> Layout<T>::kMantissa, 1);
  const int steps = bits - ((exponent - 1) << Layout<T>::kMantissa);
  return std::ldexp(steps, exponent - 1 + kSmallest<T> - Layout<T>::kMantissa);
}

char* keep_float(char* begin, char* end) {
  for (const char* p = begin; p != end; ++p) {
    if (*p == '.' || *p == 'e') return end;
  }
  end[0] = '.';
  end[1] = '0';
  return end + 2;
}

// ---- the shortest texts of all patterns -----------------------------------------------------------------------------

struct Text {
  char bytes[15];
  uint8_t size;
};

// Whether the decimal of so many digits behind the first that is nearest to a value reads back to the pattern.
template <typename T>
bool reads_back(double value, int precision, uint16_t bits, double* decimal_value) {
  char digits[32];
  const auto written = std::to_chars(digits, digits + sizeof digits, value, std::chars_format::scientific, precision);
  std::from_chars(digits, written.ptr, *decimal_value);
  return round_to<T>(*decimal_value, digits, written.ptr) == bits;
}

// The shortest text of a number that reads back to the pattern: of fewest digits, and a whole number as it is.
template <typename T>
Text shortest(uint16_t bits) {
  const double value = value_of<T>(bits);
  // What reads back lies around the value, and for a power of two twice as far above it as below.
  const bool power = (bits & ((1 << Layout<T>::kMantissa) - 1)) == 0;
  const double middle = power ? value + std::ldexp(value, -Layout<T>::kMantissa - 3) : value;
  double found = 0;
  for (int precision = 0;; ++precision) {
    if (reads_back<T>(value, precision, bits, &found)) break;
    if (power && reads_back<T>(middle, precision, bits, &found)) break;
  }
  Text text{};
  char* end = std::to_chars(text.bytes, text.bytes + 13, found).ptr;
  if (value == std::floor(value)) {
    char whole[48];
    const char* whole_end = std::to_chars(whole, whole + sizeof whole, value, std::chars_format::fixed).ptr;
    if (whole_end - whole <= end - text.bytes) end = std::copy<const char*>(whole, whole_end, text.bytes);
  }
  text.size = static_cast<uint8_t>(keep_float(text.bytes, end) - text.bytes);
  return text;
}

// Made when it is first asked for, in some 20 ms: a search a value would cost as much in every tensor of that size.
template <typename T>
const Text* texts() {
  static const std::unique_ptr<const Text[]> all = [] {
    auto made = std::make_unique<Text[]>(kInfinity<T>);
    for (uint16_t bits = 0; bits < kInfinity<T>; ++bits) made[bits] = shortest<T>(bits);
    return made;
  }();
  return all.get();
}

char* write_text(char* out, const char* text) {
  const size_t n = std::strlen(text);
  std::memcpy(out, text, n);
  return out + n;
}

char* write_non_finite(char* out, bool nan, bool negative) {
  return write_text(out, nan ? "\"NaN\"" : negative ? "\"-Infinity\"" : "\"Infinity\"");
}

template <typename T>
char* write_float(char* out, T value) {
  if (!std::isfinite(value)) return write_non_finite(out, std::isnan(value), value < 0);
  return keep_float(out, std::to_chars(out, out + kNumberBytes, value).ptr);
}

template <typename T>
char* write_short(char* out, T value) {
  const bool negative = value.bits >> 15 != 0;
  const auto magnitude = static_cast<uint16_t>(value.bits & 0x7FFF);
  if (magnitude >= kInfinity<T>) return write_non_finite(out, magnitude > kInfinity<T>, negative);
  if (negative) *out++ = '-';
  const Text& text = texts<T>()[magnitude];
  std::memcpy(out, text.bytes, text.size);
  return out + text.size;
}

}  // namespace

bool is_large(const char* p, const char* end) {
  const Decimal d = decimal(p, end);
  return d.digits != d.end && d.exponent > 0;
}

template <>
Reading read_number(const char* p, const char* end, Half* value, const char** next) {
  return read_short(p, end, value, next);
}
template <>
Reading read_number(const char* p, const char* end, Bfloat* value, const char** next) {
  return read_short(p, end, value, next);
}

char* write_number(char* out, float value) { return write_float(out, value); }
char* write_number(char* out, double value) { return write_float(out, value); }
char* write_number(char* out, Half value) { return write_short(out, value); }
char* write_number(char* out, Bfloat value) { return write_short(out, value); }

}  // namespace maas_rt_json
