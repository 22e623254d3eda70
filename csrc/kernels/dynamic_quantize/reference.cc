// Quantization by the range as its formula; see dynamic_quantize_kernels.h.
#include "kernels/dynamic_quantize/dynamic_quantize_kernels.h"

namespace mrt {

ValueRange range_reference(const float* x, int64_t n) {
  ValueRange r{0.0f, 0.0f, false};
  for (int64_t i = 0; i < n; ++i) r = joined(ValueRange{x[i], x[i], std::isnan(x[i])}, r);
  return r;
}

void quantize_reference(const float* x, int64_t n, float divisor, int32_t zero, uint8_t* y) {
  for (int64_t i = 0; i < n; ++i) {
    const float q = std::nearbyintf(x[i] / divisor) + static_cast<float>(zero);
    y[i] = static_cast<uint8_t>(q > 0.0f ? (q < 255.0f ? q : 255.0f) : 0.0f);
  }
}

}  // namespace mrt
