// The matrix product as its formula; see reference.h.
#include "kernels/gemm/reference.h"

namespace mrt {

void gemm_reference(const Epilogue& e, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* w,
                    const float* bias, const float* residual, float* y) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0.0;
      for (int64_t d = 0; d < k; ++d) {
        sum += static_cast<double>(a[i * lda + d]) * static_cast<double>(panel_element(w, k, d, j));
      }
      y[i * n + j] = epilogue_reference(e, sum, bias ? bias + j : nullptr, residual ? residual + i * n + j : nullptr);
    }
  }
}

}  // namespace mrt
