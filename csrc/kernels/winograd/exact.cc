// The definition of convolution over one tile; see exact.h.
#include "kernels/winograd/exact.h"

#include "kernels/gemm/blocked.h"
#include "kernels/winograd/winograd_kernels.h"

namespace mrt {
namespace {

// The filter of one pair of channels: R U R'.
void filter_of(const ExactTile& t, const WinogradMatrices& matrices, int64_t o, int64_t c, double (&filter)[3][3]) {
  const int64_t side = t.m + 2, position = panels_of(t.g->out_channels) * t.g->in_channels * kPanel;
  const float* const u = t.w + (o / kPanel * t.g->in_channels + c) * kPanel + o % kPanel;
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) {
      filter[i][j] = 0.0;
      for (int64_t k = 0; k < side; ++k)
        for (int64_t l = 0; l < side; ++l) {
          const double factor = matrices.r[i][k] * matrices.r[j][l];
          if (factor != 0.0) filter[i][j] += factor * static_cast<double>(u[(k * side + l) * position]);
        }
    }
}

void add_channel(const ExactTile& t, const double (&filter)[3][3], int64_t c, double (&sum)[4][4]) {
  const ConvGeometry& g = *t.g;
  for (int64_t i = 0; i < t.rows; ++i)
    for (int64_t j = 0; j < t.columns; ++j)
      for (int64_t r = 0; r < 3; ++r)
        for (int64_t s = 0; s < 3; ++s) {
          const int64_t row = t.row + i + r - g.pad_top, column = t.column + j + s - g.pad_left;
          if (row < 0 || row >= t.h || column < 0 || column >= t.width) continue;
          sum[i][j] += static_cast<double>(t.image[(row * t.width + column) * g.in_channels + c]) * filter[r][s];
        }
}

}  // namespace

void winograd_exact_tile(const ExactTile& t) {
  const WinogradMatrices& matrices = winograd_matrices(t.m);
  for (int64_t o = 0; o < t.g->out_channels; ++o) {
    double sum[4][4] = {};
    for (int64_t c = 0; c < t.g->in_channels; ++c) {
      double filter[3][3];
      filter_of(t, matrices, o, c, filter);
      add_channel(t, filter, c, sum);
    }
    for (int64_t i = 0; i < t.rows; ++i)
      for (int64_t j = 0; j < t.columns; ++j) {
        const int64_t at = i * t.line + j * t.pixel + o;
        t.y[at] = epilogue_reference(*t.epilogue, sum[i][j], t.bias ? t.bias + o : nullptr,
                                     t.residual ? t.residual + at : nullptr);
      }
  }
}

}  // namespace mrt
