#include "kernels/gemmq/finish.h"

#include <cstring>

#include "kernels/gemm/pack.h"

namespace mrt {

void finish_panel(const DenseParams& p, const DenseOperands& o, int64_t panel, int64_t row, int64_t rows, float* sums) {
  const Epilogue& e = p.epilogue;
  const int64_t columns = std::min(kPanel, p.n - panel * kPanel), at = row * p.n + panel * kPanel;
  const size_t row_bytes = static_cast<size_t>(columns) * sizeof(float);
  float bias[kPanel] = {};  // a whole panel, as all below: loops of a length that is known become vectors
  if (o.bias) std::memcpy(bias, o.bias + panel * kPanel, row_bytes);
  float* const y = o.y + at;
  const float* const residual = o.residual ? o.residual + at : nullptr;
  for (int64_t i = 0; i < rows; ++i) {
    float* const x = sums + i * kPanel;
    const auto add_residual = [&] {
      for (int64_t j = 0; j < columns; ++j) x[j] += residual[i * p.n + j];
    };
    for (int64_t j = 0; j < kPanel; ++j) x[j] += bias[j];
    if (residual && !e.residual_after) add_residual();
    if (e.clamp_only()) {
      for (int64_t j = 0; j < kPanel; ++j) {
        const float low = e.lo > x[j] ? e.lo : x[j];
        x[j] = e.hi < low ? e.hi : low;
      }
      if (residual && e.residual_after) add_residual();
    }
    std::memcpy(y + i * p.n, x, row_bytes);
  }
  if (!e.clamp_only()) p.epilogue_table->apply(e, y, p.n, rows, columns, e.residual_after ? residual : nullptr, p.n);
}

}  // namespace mrt
