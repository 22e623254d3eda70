// Numbers of JSON to the types of tensors, correctly rounded, and their shortest text that reads back to the same bits.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <system_error>

#include "text.h"

namespace maas_rt_json {

// The 16-bit float types; the value is the pattern of bits.
struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

// How a token was read.
enum class Reading { kOk, kWrong, kTooLarge };

// The number at p, which begins with a digit or a minus; `*next` is what is behind it. kWrong: it is no JSON number, or
// none of the type (a fraction or an exponent for an integer).
template <typename T>
Reading read_number(const char* p, const char* end, T* value, const char** next);

// Whether from_chars, which takes more than JSON does, may begin at p: no leading zero, digits around the point.
inline bool begins_as_json(const char* p, const char* end) {
  if (p != end && *p == '-') ++p;
  if (p == end || !is_digit(*p)) return false;
  if (*p == '0') {
    ++p;
    if (p != end && is_digit(*p)) return false;
  } else {
    while (p != end && is_digit(*p)) ++p;
  }
  return p == end || *p != '.' || (end - p > 1 && is_digit(p[1]));
}

// Whether the number at p, which is no float, is too large for one and not too small.
bool is_large(const char* p, const char* end);

template <typename T>
Reading read_float(const char* p, const char* end, T* value, const char** next) {
  if (!begins_as_json(p, end)) return Reading::kWrong;
  const auto result = std::from_chars(p, end, *value);
  *next = result.ptr;
  if (result.ec == std::errc::invalid_argument) return Reading::kWrong;
  const bool infinite =
      result.ec == std::errc() && (*value > std::numeric_limits<T>::max() || *value < -std::numeric_limits<T>::max());
  if (result.ec == std::errc() && !infinite) return Reading::kOk;
  if (infinite || is_large(p, result.ptr)) return Reading::kTooLarge;
  *value = *p == '-' ? T(-0.0) : T(0);
  return Reading::kOk;
}

template <typename T>
Reading read_integer(const char* p, const char* end, T* value, const char** next) {
  const bool negative = p != end && *p == '-';
  if (negative) ++p;
  const char* first = p;
  uint64_t magnitude = 0;
  bool large = false;
  for (; p != end && is_digit(*p); ++p) {
    const auto digit = static_cast<uint64_t>(*p - '0');
    large = large || __builtin_mul_overflow(magnitude, uint64_t{10}, &magnitude) ||
            __builtin_add_overflow(magnitude, digit, &magnitude);
  }
  *next = p;
  if (p == first || (*first == '0' && p - first > 1)) return Reading::kWrong;
  if (p != end && (*p == '.' || *p == 'e' || *p == 'E')) return Reading::kWrong;
  const auto most = static_cast<uint64_t>(std::numeric_limits<T>::max());
  const uint64_t limit = !negative ? most : std::numeric_limits<T>::is_signed ? most + 1 : 0;
  if (large || magnitude > limit) return Reading::kTooLarge;
  *value = static_cast<T>(negative ? ~magnitude + 1 : magnitude);
  return Reading::kOk;
}

template <typename T>
Reading read_number(const char* p, const char* end, T* value, const char** next) {
  if constexpr (std::numeric_limits<T>::is_integer) {
    return read_integer(p, end, value, next);
  } else {
    return read_float(p, end, value, next);
  }
}
template <>
Reading read_number(const char* p, const char* end, Half* value, const char** next);
template <>
Reading read_number(const char* p, const char* end, Bfloat* value, const char** next);

// The text of a value to `out`, which has room for kNumberBytes; returns its end. Floats keep a point or an exponent;
// what JSON's numbers lack is text, as in protobuf's JSON.
constexpr size_t kNumberBytes = 26;
char* write_number(char* out, float value);
char* write_number(char* out, double value);
char* write_number(char* out, Half value);
char* write_number(char* out, Bfloat value);
template <typename T>
char* write_number(char* out, T value) {
  static_assert(std::numeric_limits<T>::is_integer);
  return std::to_chars(out, out + kNumberBytes, value).ptr;
}

}  // namespace maas_rt_json
