// Pooling of one window as the formula says it.
#include <cmath>

#include "kernels/pool/pool_kernels.h"

namespace mrt {

void pool_max_reference(const PoolWindow& w) {
  for (int64_t c = 0; c < w.c; ++c) {
    float y = -INFINITY;
    for (int64_t r = 0; r < w.rows; ++r) {
      for (int64_t k = 0; k < w.cols; ++k) {
        const float x = w.x[r * w.row_stride + k * w.col_stride + c];
        if (x > y || std::isnan(x)) y = x;  // nothing is greater than a NaN: it stays
      }
    }
    w.y[c] = y;
  }
}

void pool_sum_reference(const PoolWindow& w, float divisor) {
  for (int64_t c = 0; c < w.c; ++c) {
    double y = 0;
    for (int64_t r = 0; r < w.rows; ++r) {
      for (int64_t k = 0; k < w.cols; ++k) y += w.x[r * w.row_stride + k * w.col_stride + c];
    }
    w.y[c] = static_cast<float>(y / divisor);
  }
}

}  // namespace mrt
