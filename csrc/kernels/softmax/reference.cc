// softmax_f32 as the formula says it, in double precision.
#include <cmath>

#include "kernels/softmax/softmax_kernels.h"

namespace mrt {

// y_i = exp(x_i - max x) / sum_j exp(x_j - max x); the shift by the maximum cancels.
void softmax_reference(const float* x, float* y, int64_t rows, int64_t d, bool log) {
  for (int64_t r = 0; r < rows; ++r, x += d, y += d) {
    double m = -INFINITY, sum = 0;
    for (int64_t i = 0; i < d; ++i) m = x[i] > m ? x[i] : m;
    for (int64_t i = 0; i < d; ++i) sum += std::exp(x[i] - m);
    for (int64_t i = 0; i < d; ++i) {
      const double t = x[i] - m;
      y[i] = static_cast<float>(log ? t - std::log(sum) : std::exp(t) / sum);
    }
  }
}

}  // namespace mrt
