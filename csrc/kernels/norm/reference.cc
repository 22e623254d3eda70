// layer_norm_f32 and rms_norm_f32 as the formulas say them, in double precision.
#include <cmath>

#include "kernels/norm/norm_kernels.h"

namespace mrt {
namespace {

// s = x + residual, rounded to float32: that is the second output.
float at(const NormRow& r, int64_t i) { return r.residual == nullptr ? r.x[i] : r.x[i] + r.residual[i]; }

// y_i = (s_i - mean) * scale * gamma_i + beta_i
void write(const NormRow& r, double mean, double scale) {
  for (int64_t i = 0; i < r.d; ++i) {
    const float s = at(r, i);
    double y = (s - mean) * scale;
    if (r.gamma != nullptr) y *= r.gamma[i];
    if (r.beta != nullptr) y += r.beta[i];
    if (r.sum != nullptr) r.sum[i] = s;
    r.y[i] = static_cast<float>(y);
  }
}

}  // namespace

void layer_norm_reference(const NormRow& r) {
  double mean = 0, variance = 0;
  for (int64_t i = 0; i < r.d; ++i) mean += at(r, i);
  mean /= static_cast<double>(r.d);
  for (int64_t i = 0; i < r.d; ++i) variance += (at(r, i) - mean) * (at(r, i) - mean);
  variance /= static_cast<double>(r.d);
  write(r, mean, 1 / std::sqrt(variance + r.epsilon));
}

void rms_norm_reference(const NormRow& r) {
  double square = 0;
  for (int64_t i = 0; i < r.d; ++i) square += static_cast<double>(at(r, i)) * at(r, i);
  write(r, 0, 1 / std::sqrt(square / static_cast<double>(r.d) + r.epsilon));
}

}  // namespace mrt
