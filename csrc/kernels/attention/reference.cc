// Attention as the formula says it, in double precision: y = softmax(scale q k^T + mask) v, query by query.
#include <cmath>

#include "kernels/attention/attention_kernels.h"

namespace mrt {
namespace {

void attend(const AttentionProblem& p, int64_t b, int64_t h, int64_t i) {
  const int64_t kv = h / (p.heads / p.kv_heads), keys = p.visible(i);
  const float* q = p.q + b * p.q_strides.batch + i * p.q_strides.seq + h * p.q_strides.head;
  const float* k = p.k + b * p.k_strides.batch + kv * p.k_strides.head;
  const float* v = p.v + b * p.v_strides.batch + kv * p.v_strides.head;
  const float* mask =
      p.mask == nullptr ? nullptr : p.mask + b * p.mask_strides[0] + h * p.mask_strides[1] + i * p.mask_strides[2];
  float* y = p.y + b * p.y_strides.batch + i * p.y_strides.seq + h * p.y_strides.head;
  const auto score = [&](int64_t n) {
    double s = 0;
    for (int64_t c = 0; c < p.d; ++c) s += static_cast<double>(q[c]) * k[n * p.k_strides.seq + c];
    s *= p.scale;
    return mask == nullptr ? s : s + mask[n * p.mask_strides[3]];
  };
  double top = -INFINITY, sum = 0;
  bool hidden = true;  // no key at all, or nothing but -inf
  for (int64_t n = 0; n < keys; ++n) {
    top = std::fmax(top, score(n));
    hidden = hidden && score(n) == -INFINITY;
  }
  for (int64_t n = 0; n < keys; ++n) sum += std::exp(score(n) - top);
  for (int64_t c = 0; c < p.dv; ++c) {
    double a = 0;
    for (int64_t n = 0; n < keys; ++n) a += std::exp(score(n) - top) / sum * v[n * p.v_strides.seq + c];
    if (hidden && p.sk > 0) a = p.safe ? 0.0 : NAN;
    y[c] = static_cast<float>(a);
  }
}

}  // namespace

void attention_reference(const AttentionProblem& p) {
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t h = 0; h < p.heads; ++h) {
      for (int64_t i = 0; i < p.sq; ++i) attend(p, b, h, i);
    }
  }
}

}  // namespace mrt
