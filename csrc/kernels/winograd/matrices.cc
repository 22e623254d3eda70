// The matrices of F(2, 3) and F(4, 3), from their points.
//
// For points p_i (the last is infinity) with N_i = product of (p_i - p_j) over the other finite j:
//   AT[k][i] = p_i^k, G[i] = [1, p_i, p_i^2] / N_i, BT[i] = coefficients of the product of (x - p_j) over j other than
//   i.
// At infinity AT and G have their one in the last row and column, and BT the product over all finite points. The first
// points are 0, p and -p, whose N is that of p: so g0 = N_0 G[0] g, g1 = N_p (G[1] g - G[2] g) / 2p, and g2 = G[last]
// g.
#include "kernels/winograd/winograd_kernels.h"

namespace mrt {
namespace {

WinogradMatrices make(int32_t m, const double* points) {
  WinogradMatrices w{};
  w.m = m;
  const int finite = m + 1;
  for (int i = 0; i <= finite; ++i) {
    double polynomial[kMaxPosition] = {1.0}, norm = 1.0;
    int degree = 0;
    for (int j = 0; j < finite; ++j) {
      if (j == i) continue;
      if (i < finite) norm *= points[i] - points[j];
      for (int k = ++degree; k > 0; --k) polynomial[k] = polynomial[k - 1] - points[j] * polynomial[k];
      polynomial[0] *= -points[j];
    }
    for (int k = 0; k <= degree; ++k) w.bt[i][k] = polynomial[k];
    if (i == finite) {
      w.at[m - 1][i] = w.g[i][2] = w.r[2][i] = 1.0;
      continue;
    }
    if (i == 0) w.r[0][0] = norm;
    if (i == 1) w.r[1][1] = norm / (2.0 * points[1]);
    if (i == 2) w.r[1][2] = -w.r[1][1];
    double power = 1.0;
    for (int k = 0; k < m || k < 3; ++k, power *= points[i]) {
      if (k < m) w.at[k][i] = power;
      if (k < 3) w.g[i][k] = power / norm;
    }
  }
  return w;
}

const double kPoints2[] = {0.0, 1.0, -1.0};
const double kPoints4[] = {0.0, kPointA, -kPointA, kPointB, -kPointB};

}  // namespace

const WinogradMatrices& winograd_matrices(int64_t m) {
  static const WinogradMatrices two = make(2, kPoints2), four = make(4, kPoints4);
  return m == 2 ? two : four;
}

}  // namespace mrt
