// Numbers of JSON to the types of tensors, correctly rounded, and their shortest text that reads back to the same bits.
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <system_error>

#include "text.h"

#if !defined(__cpp_lib_to_chars)
#error "JSON tensors need from_chars and to_chars of floats: a C++ library as of GCC 11"
#endif

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

// ---- digits ---------------------------------------------------------------------------------------------------------

// As many digits as a uint64_t surely holds, and the smallest number of more.
constexpr ptrdiff_t kSureDigits = 19;
constexpr uint64_t kTenTo19 = 10000000000000000000u;

// Whether all eight characters are digits, and their number; the first is in the lowest byte. Source: D. Lemire,
// "Quickly parsing eight digits", 2018.
inline bool are_digits(uint64_t w) {
  return ((w & 0xF0F0F0F0F0F0F0F0u) | (((w + 0x0606060606060606u) & 0xF0F0F0F0F0F0F0F0u) >> 4)) == 0x3333333333333333u;
}
inline uint64_t number_of(uint64_t w) {
  constexpr uint64_t kMask = 0x000000FF000000FFu;
  w -= 0x3030303030303030u;
  w = w * 10 + (w >> 8);
  return ((w & kMask) * (100 + (uint64_t{1000000} << 32)) + ((w >> 16) & kMask) * (1 + (uint64_t{10000} << 32))) >> 32;
}

// Appends the digits at p to a number, modulo 2^64, and returns what is behind them.
inline const char* skip_digits(const char* p, const char* end, uint64_t* number) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  for (uint64_t w; end - p >= 8; p += 8) {
    std::memcpy(&w, p, 8);
    if (!are_digits(w)) break;
    *number = *number * 100000000 + number_of(w);
  }
#endif
  for (; p != end && is_digit(*p); ++p) *number = *number * 10 + static_cast<uint64_t>(*p - '0');
  return p;
}

// ---- floats ---------------------------------------------------------------------------------------------------------

// The usual number: digits and perhaps a point, no exponent, not more digits than a uint64_t holds.
struct Plain {
  uint64_t digits;
  ptrdiff_t decimals;  // of them behind the point
};

// Whether such a number is at p; `*next` is what is behind it. Where not, it may still be a number.
inline bool read_plain(const char* p, const char* end, Plain* plain, const char** next) {
  if (p != end && *p == '-') ++p;
  const char* first = p;
  plain->digits = 0;
  while (p != end && is_digit(*p)) plain->digits = plain->digits * 10 + static_cast<uint64_t>(*p++ - '0');
  if (p == first || (*first == '0' && p - first > 1)) return false;
  const ptrdiff_t whole = p - first;
  plain->decimals = 0;
  if (p != end && *p == '.') {
    const char* point = p;
    p = skip_digits(p + 1, end, &plain->digits);
    plain->decimals = p - point - 1;
    if (plain->decimals == 0) return false;
  }
  *next = p;
  return whole + plain->decimals <= kSureDigits && (p == end || (*p != 'e' && *p != 'E'));
}

constexpr double kPowersOfTen[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,
                                   1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19};

// The number as a double: correctly rounded where the digits fit into one, as both operands are exact; else by two
// roundings, less than two of its last units away.
inline double nearest_double(const Plain& plain) {
  return static_cast<double>(plain.digits) / kPowersOfTen[plain.decimals];
}
inline bool is_exact(const Plain& plain) { return plain.digits <= uint64_t{1} << 53; }

// The magnitude of the usual number where that is certain.
inline bool round_plain(const Plain& plain, double* value) {
  *value = nearest_double(plain);
  return is_exact(plain);
}
inline bool round_plain(const Plain& plain, float* value) {
  // Rounding a double that is nearly right gives the right float unless it lies at the middle between two of them:
  // where the 29 bits that a float has less are 1000...
  const double nearest = nearest_double(plain);
  uint64_t bits;
  std::memcpy(&bits, &nearest, sizeof bits);
  const uint64_t less = bits & ((uint64_t{1} << 29) - 1), middle = uint64_t{1} << 28;
  *value = static_cast<float>(nearest);
  return less < middle - 2 || less > middle + 2;
}

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

// Whether the number at p, which is beyond a float's range, is too large and not too small.
bool is_large(const char* p, const char* end);

template <typename T>
Reading read_float(const char* p, const char* end, T* value, const char** next) {
  Plain plain;
  if (read_plain(p, end, &plain, next) && round_plain(plain, value)) {
    if (*p == '-') *value = -*value;
    return Reading::kOk;
  }
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

// ---- integers -------------------------------------------------------------------------------------------------------

template <typename T>
Reading read_integer(const char* p, const char* end, T* value, const char** next) {
  const bool negative = p != end && *p == '-';
  if (negative) ++p;
  const char* first = p;
  uint64_t magnitude = 0;
  p = *next = skip_digits(p, end, &magnitude);
  if (p == first || (*first == '0' && p - first > 1)) return Reading::kWrong;
  if (p != end && (*p == '.' || *p == 'e' || *p == 'E')) return Reading::kWrong;
  const auto most = static_cast<uint64_t>(std::numeric_limits<T>::max());
  const uint64_t limit = !negative ? most : std::numeric_limits<T>::is_signed ? most + 1 : 0;
  // Of 20 digits, those of 2^64 and more begin with a 2 or are, modulo 2^64, less than 10^19.
  const bool large =
      p - first > kSureDigits + 1 || (p - first == kSureDigits + 1 && (*first > '1' || magnitude < kTenTo19));
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
