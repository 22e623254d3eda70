// The product of 8-bit integers as its formula; see reference.h.
#include "kernels/qgemm/reference.h"

#include <cmath>

namespace mrt {

// The activations that are not clamps are computed in double precision, everything else in float as kernels do.
void q_reference_element(const QFinishCall& f, int64_t sum, int64_t row, int64_t column) {
  const Epilogue& e = *f.epilogue;
  const float product = static_cast<float>(sum) * f.scale[column];
  float x = product + (f.bias ? f.bias[column] : 0.0f);
  const float* r = f.residual ? f.residual + row * f.ldr + column : nullptr;
  if (r && !e.residual_after) x = x + *r;
  x = static_cast<float>(epilogue_reference(e, static_cast<double>(x)));
  if (r && e.residual_after) x = x + *r;
  if (!f.quantized) {
    static_cast<float*>(f.y)[row * f.ldy + column] = x;
    return;
  }
  const float scaled = x * f.inverse;
  const float above = scaled > f.lo ? scaled : f.lo, clamped = above < f.hi ? above : f.hi;
  const int32_t q = static_cast<int32_t>(std::nearbyint(clamped)) + f.zero;
  static_cast<uint8_t*>(f.y)[row * f.ldy + column] = static_cast<uint8_t>(q);
}

void qgemm_reference(const QFinishCall& f, int64_t m, int64_t n, int64_t k, const uint8_t* a, int64_t a_zero,
                     const char* w) {
  const QPanelLayout l = q_panel_layout(1, k);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      int64_t sum = 0;
      for (int64_t d = 0; d < k; ++d) sum += (a[i * k + d] - a_zero) * q_packed_weight(w, l, 0, d, j);
      q_reference_element(f, sum, i, j);
    }
  }
}

}  // namespace mrt
