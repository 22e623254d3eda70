// Winograd convolution as its formula, in double precision.
#include "kernels/winograd/reference.h"

#include "kernels/gemm/blocked.h"
#include "kernels/gemm/reference.h"
#include "kernels/winograd/winograd_kernels.h"

namespace mrt {
namespace {

using Square = double[kMaxPosition][kMaxPosition];

// sum += (B' d B) . U over one channel, d the inputs of the tile whose first output is (row, column).
void add_channel(const ConvGeometry& g, const WinogradMatrices& w, const Tensor& x, const float* image, int64_t row,
                 int64_t column, int64_t channel, const float* transformed, int64_t position, Square& sum) {
  const int side = w.m + 2;
  Square d{}, half{};
  for (int i = 0; i < side; ++i)
    for (int j = 0; j < side; ++j) {
      const int64_t r = row - g.pad_top + i, c = column - g.pad_left + j;
      if (r < 0 || r >= x.shape[1] || c < 0 || c >= x.shape[2]) continue;
      d[i][j] = static_cast<double>(image[(r * x.shape[2] + c) * g.in_channels + channel]);
    }
  for (int i = 0; i < side; ++i)
    for (int j = 0; j < side; ++j)
      for (int k = 0; k < side; ++k) half[i][j] += w.bt[i][k] * d[k][j];
  for (int i = 0; i < side; ++i)
    for (int j = 0; j < side; ++j) {
      double v = 0.0;
      for (int k = 0; k < side; ++k) v += half[i][k] * w.bt[j][k];
      sum[i][j] += v * static_cast<double>(transformed[(i * side + j) * position]);
    }
}

}  // namespace

void winograd_reference(const ConvGeometry& g, int64_t m, const Epilogue& e, const Tensor& x, const float* w,
                        const float* bias, const float* residual, const Tensor& y) {
  const WinogradMatrices& matrices = winograd_matrices(m);
  const int64_t side = m + 2, position = panels_of(g.out_channels) * g.in_channels * kPanel;
  for (int64_t n = 0; n < y.shape[0]; ++n)
    for (int64_t row = 0; row < y.shape[1]; row += m)
      for (int64_t column = 0; column < y.shape[2]; column += m)
        for (int64_t o = 0; o < g.out_channels; ++o) {
          Square sum{};
          const float* const image = x.as<const float>() + n * x.shape[1] * x.shape[2] * g.in_channels;
          for (int64_t c = 0; c < g.in_channels; ++c) {
            const float* const transformed = w + (o / kPanel * g.in_channels + c) * kPanel + o % kPanel;
            add_channel(g, matrices, x, image, row, column, c, transformed, position, sum);
          }
          for (int64_t i = 0; i < m && row + i < y.shape[1]; ++i)
            for (int64_t j = 0; j < m && column + j < y.shape[2]; ++j) {
              double value = 0.0;
              for (int64_t k = 0; k < side; ++k)
                for (int64_t l = 0; l < side; ++l) value += matrices.at[i][k] * sum[k][l] * matrices.at[j][l];
              const int64_t at = ((n * y.shape[1] + row + i) * y.shape[2] + column + j) * g.out_channels + o;
              y.as<float>()[at] =
                  epilogue_reference(e, value, bias ? bias + o : nullptr, residual ? residual + at : nullptr);
            }
        }
}

}  // namespace mrt
