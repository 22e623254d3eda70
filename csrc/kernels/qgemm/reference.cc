// The product of 8-bit integers as its formula; see reference.h.
#include "kernels/qgemm/reference.h"

#include <cmath>

namespace mrt {

namespace {

float clamped(float x, float lo, float hi) {
  const float above = x > lo ? x : lo;
  return above < hi ? above : hi;
}

void store_byte(const QFinishCall& f, float x, int64_t row, int64_t column) {
  const int32_t q = static_cast<int32_t>(std::nearbyint(x)) + f.zero;
  static_cast<uint8_t*>(f.y)[row * f.ldy + column] = static_cast<uint8_t>(q);
}

// A sum in steps of a scale whose inverse is given, within bounds; not rounded yet.
float folded(const QFinishCall& f, float from_sum, int64_t sum, int64_t column, float inverse, float lo, float hi) {
  const Epilogue& e = *f.epilogue;
  const float scale = from_sum * inverse, bias = f.bias ? f.bias[column] * inverse : 0.0f;
  const float x = static_cast<float>(sum) * scale;
  return clamped(x + bias, clamped(e.lo * inverse, lo, hi), clamped(e.hi * inverse, lo, hi));
}

}  // namespace

// The activations that are not clamps are computed in double precision, everything else in float as kernels do.
void q_reference_element(const QFinishCall& f, int64_t sum, int64_t row, int64_t column) {
  const Epilogue& e = *f.epilogue;
  if (f.sums) {
    static_cast<int32_t*>(f.y)[row * f.ldy + column] = static_cast<int32_t>(static_cast<uint32_t>(sum));
    return;
  }
  const float from_sum = f.scale[column] * f.a_scale;
  if (f.folds()) return store_byte(f, folded(f, from_sum, sum, column, f.inverse, f.lo, f.hi), row, column);
  if (f.sum) {
    const QSum& s = *f.sum;
    const float term = std::nearbyint(folded(f, from_sum, sum, column, s.inverse, s.lo, s.hi)) * s.scale;
    const float residual = static_cast<float>(f.bytes[row * f.ldr + column] - s.residual_zero) * s.residual_scale;
    const float x = term + residual;
    return store_byte(f, clamped(x / s.y_scale, f.lo, f.hi), row, column);
  }
  const float product = static_cast<float>(sum) * from_sum;
  float x = product + (f.bias ? f.bias[column] : 0.0f);
  const float* r = f.residual ? f.residual + row * f.ldr + column : nullptr;
  if (r && !e.residual_after) x = x + *r;
  x = static_cast<float>(epilogue_reference(e, static_cast<double>(x)));
  if (r && e.residual_after) x = x + *r;
  if (!f.quantized) {
    static_cast<float*>(f.y)[row * f.ldy + column] = x;
    return;
  }
  store_byte(f, clamped(x * f.inverse, f.lo, f.hi), row, column);
}

void qgemm_reference(const QFinishCall& f, int64_t m, int64_t n, int64_t k, const uint8_t* a, int64_t a_zero,
                     const char* w, const int8_t* w_zero) {
  const QPanelLayout l = q_panel_layout(1, k);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      int64_t sum = 0;
      const int64_t zero = w_zero ? w_zero[j] : 0;
      for (int64_t d = 0; d < k; ++d) sum += (a[i * k + d] - a_zero) * (q_packed_weight(w, l, 0, d, j) - zero);
      q_reference_element(f, sum, i, j);
    }
  }
}

}  // namespace mrt
