// Numbers of 16 bits as floats; scales of weights of few bits, which a step has in float32 or in float16.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/tensor.h"

namespace mrt {

inline float half_value(uint16_t h) {
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fff) << 13, sign = static_cast<uint32_t>(h & 0x8000) << 16;
  float x = 0.0f;
  std::memcpy(&x, &magnitude, sizeof(x));
  x *= 0x1p112f;  // as F32x4::load_half does
  uint32_t bits = magnitude | 0x7f800000;
  if (x < 65536.0f) std::memcpy(&bits, &x, sizeof(bits));
  bits |= sign;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

inline float brain_value(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

struct Scales {
  const char* data;
  int64_t bytes;  // of one: 4 or 2

  static Scales of(const Tensor& t) { return {t.as<const char>(), t.dtype.bits / 8}; }
  bool half() const { return bytes == 2; }
  Scales from(int64_t i) const { return {data + i * bytes, bytes}; }
  const float* floats() const { return reinterpret_cast<const float*>(data); }
  const uint16_t* halves() const { return reinterpret_cast<const uint16_t*>(data); }
  float operator[](int64_t i) const { return half() ? half_value(halves()[i]) : floats()[i]; }
};

}  // namespace mrt
