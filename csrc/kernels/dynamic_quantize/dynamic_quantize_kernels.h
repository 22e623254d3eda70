// Quantization to uint8 by the range of what is quantized: the inner functions that every instruction set fills in, and
// the two numbers that come of a range. dynamic_quantize_u8 and the recurrent layers of 8 bits share them.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/checks.h"

namespace mrt {

// The least and the greatest of some numbers and 0; `nan` where one of them is none.
struct ValueRange {
  float lo, hi;
  bool nan;
};
inline ValueRange joined(const ValueRange& a, const ValueRange& b) {
  return {a.lo < b.lo ? a.lo : b.lo, a.hi > b.hi ? a.hi : b.hi, a.nan || b.nan};
}

struct ByteScale {
  float scale;  // NaN where the range has one, so that nothing computed from it is taken for a result
  uint8_t zero;
};
// ONNX's DynamicQuantizeLinear: scale = (hi - lo) / 255, zero = -lo / scale, rounded half to even.
inline ByteScale byte_scale(const ValueRange& r) {
  if (r.nan) return {__builtin_nanf(""), 0};
  const float scale = (r.hi - r.lo) / 255.0f;
  if (!(scale > 0.0f)) return {scale, 0};
  const float zero = -r.lo / scale;
  return {scale, static_cast<uint8_t>(std::nearbyintf(zero > 0.0f ? (zero < 255.0f ? zero : 255.0f) : 0.0f))};
}
// What values are divided by: a range that is one number or too narrow has scale 0, and its values are rounded as are.
inline float byte_divisor(const ByteScale& s) { return s.scale == 0.0f ? 1.0f : s.scale; }

struct DynamicQuantizeKernel {
  ValueRange (*range)(const float* x, int64_t n);
  // y = clamp(round(x / divisor) + zero, 0, 255), rounded half to even; a NaN gives 0.
  void (*quantize)(const float* x, int64_t n, float divisor, int32_t zero, uint8_t* y);
};

#define MRT_TABLE DynamicQuantizeKernel
#define MRT_LIST kDynamicQuantize
#define MRT_KERNELS "kernels/dynamic_quantize/kernels.inc"
#include "kernels/kernel_list.inc"

// The same as their formulas.
ValueRange range_reference(const float* x, int64_t n);
void quantize_reference(const float* x, int64_t n, float divisor, int32_t zero, uint8_t* y);

}  // namespace mrt
