// Pooling of one window as the formula says it.
#include <limits>

#include "kernels/pool/pool_kernels.h"

namespace mrt {

template <typename T>
void pool_max_reference(const PoolWindowOf<T>& w) {
  using Limits = std::numeric_limits<T>;
  for (int64_t c = 0; c < w.c; ++c) {
    T y = Limits::has_infinity ? -Limits::infinity() : Limits::lowest();
    for (int64_t r = 0; r < w.rows; ++r) {
      for (int64_t k = 0; k < w.cols; ++k) {
        const T x = w.x[r * w.row_stride + k * w.col_stride + c];
        if (x > y || x != x) y = x;  // nothing is greater than a NaN: it stays
      }
    }
    w.y[c] = y;
  }
}
template void pool_max_reference<float>(const PoolWindow&);
template void pool_max_reference<uint8_t>(const PoolWindowOf<uint8_t>&);

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
