// The transforms of a Winograd convolution that every instruction set fills in.
//
// F(m, 3): a tile of m x m outputs comes from (m + 2) x (m + 2) inputs by
//   Y = A' [ (G g G') . (B' d B) ] A        (. is element by element, ' transposes)
// A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015). The sums over channels turn the
// products into (m + 2)^2 matrix products, one for each position of the transformed tile.
#pragma once

#include <cstdint>

#include "kernels/checks.h"

namespace mrt {

constexpr int kMaxPosition = 6;  // m + 2 for the largest tile

// The points at which F(4, 3) evaluates its polynomials: 0, +-a, +-b and infinity. With a * b = 1 the transform of the
// input needs fewer multiplications, and a = 1 / sqrt(2) loses less to rounding than the usual 1 and 2 (B. Barabasz and
// others, "Error Analysis and Improving the Accuracy of Winograd Convolution", 2018).
constexpr double kPointA = 0.70710678118654752440, kPointB = 1.41421356237309504880;

// The matrices for m = 2 or 4: AT [m][m + 2], G [m + 2][3], BT [m + 2][m + 2], and R [3][m + 2] with R G = 1, which
// gives the filter back.
struct WinogradMatrices {
  int32_t m;
  double at[4][kMaxPosition], g[kMaxPosition][3], bt[kMaxPosition][kMaxPosition], r[3][kMaxPosition];
};
const WinogradMatrices& winograd_matrices(int64_t m);

// What is left to do with the products of one tile.
struct WinogradOutput {
  const float* products;  // position p of channel c: products[p * position + c]
  int64_t position;
  int64_t channels;
  int64_t rows, columns;  // of the tile, that lie inside of the image
  float* y;
  int64_t line, pixel;    // floats from one to the next, of y and of the residual
  const float* bias;      // null or [channels]
  const float* residual;  // null or like y
  float lo, hi;
  bool residual_after;  // the residual is added after clamping
};

struct WinogradKernel {
  const char* name[2];  // for m = 2 and 4
  // pixels: (m + 2)^2 pointers to `channels` floats, row by row; position p of channel c goes to out[p * position + c].
  void (*input[2])(const float* const* pixels, int64_t channels, float* out, int64_t position);
  // Whether all sums were finite; see exact.h.
  bool (*output[2])(const WinogradOutput& call);
};

#define MRT_TABLE WinogradKernel
#define MRT_LIST kWinogradF32
#define MRT_KERNELS "kernels/winograd/kernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
