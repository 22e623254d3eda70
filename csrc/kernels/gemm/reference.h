// The matrix product as its formula, in double precision: what every kernel of it is tested against.
#pragma once

#include "kernels/gemm/blocked.h"

namespace mrt {

// y[i, j] = epilogue(sum over k of a(i, k) * w(k, j)); w is packed in panels of 16 columns.
void gemm_reference(const Epilogue& e, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* w,
                    const float* bias, const float* residual, float* y);
// The element (k, j) of packed weights of depth `depth`.
inline float panel_element(const float* w, int64_t depth, int64_t k, int64_t j) {
  return w[((j / kPanel) * depth + k) * kPanel + j % kPanel];
}

}  // namespace mrt
