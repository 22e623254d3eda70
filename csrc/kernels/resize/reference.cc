// Resizing as the formulas of ONNX's Resize say it: every output pixel by itself, in double precision.
#include <cmath>

#include "kernels/resize/resize_kernels.h"

namespace mrt {
namespace {

// Where output position i lies on the input's axis.
double source(const ResizeParams& p, int64_t i, int64_t in, int64_t out, double scale) {
  // Without a given scale the product comes first: where the quotient is a whole number it is exactly that.
  const double n = static_cast<double>(in), m = static_cast<double>(out), x = static_cast<double>(i);
  const auto over = [&](double position) { return scale > 0 ? position / scale : position * n / m; };
  switch (p.coordinates) {
    case 1:
      return out == 1 ? 0.0 : x * (n - 1) / (m - 1);
    case 2:
      return over(x);
    case 3:
      return out == 1 ? 0.0 : over(x + 0.5) - 0.5;
    default:
      return over(x + 0.5) - 0.5;
  }
}

int64_t round_as(int32_t how, double x) {
  switch (how) {
    case 0:
      return static_cast<int64_t>(std::floor(x));
    case 1:
      return static_cast<int64_t>(std::ceil(x));
    case 2:
      return static_cast<int64_t>(std::ceil(x - 0.5));
    default:
      return static_cast<int64_t>(std::floor(x + 0.5));
  }
}

// R. Keys, Cubic Convolution Interpolation for Digital Image Processing, 1981; t is the distance.
double keys(double a, double t) {
  t = std::fabs(t);
  if (t <= 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a;
  return 0;
}

}  // namespace

void resize_taps(const ResizeParams& p, int64_t i, int64_t in, int64_t out, double scale, int32_t* index,
                 double* weight) {
  // A scale that does not fit the shapes may point anywhere: far outside, the edge is all there is.
  double x = source(p, i, in, out, scale);
  const double far = static_cast<double>(in) + 8;
  x = x > far ? far : x < -8 ? -8 : x;
  const auto inside = [&](int64_t k) { return static_cast<int32_t>(k < 0 ? 0 : k < in ? k : in - 1); };
  if (p.mode == 0) {
    index[0] = inside(round_as(p.rounding, x));
    weight[0] = 1;
    return;
  }
  const double whole = std::floor(x), f = x - whole;
  const int64_t k = static_cast<int64_t>(whole);
  if (p.mode == 1) {
    for (int t = 0; t < 2; ++t) index[t] = inside(k + t);
    weight[0] = 1 - f;
    weight[1] = f;
    return;
  }
  for (int t = 0; t < 4; ++t) {
    index[t] = inside(k + t - 1);
    weight[t] = keys(p.cubic_a, f - (t - 1));
  }
}

void resize_reference(const ResizeParams& p, const Tensor& x, const Tensor& y) {
  const int64_t h = x.shape[1], w = x.shape[2], oh = y.shape[1], ow = y.shape[2], c = x.shape[3];
  int32_t row[4], col[4];
  double u[4], v[4];
  for (int64_t i = 0; i < y.shape[0] * oh; ++i) {
    const float* image = x.as<float>() + i / oh * h * w * c;
    resize_taps(p, i % oh, h, oh, p.scales[0], row, u);
    for (int64_t j = 0; j < ow; ++j) {
      resize_taps(p, j, w, ow, p.scales[1], col, v);
      for (int64_t k = 0; k < c; ++k) {
        double sum = 0;
        for (int s = 0; s < p.taps(); ++s) {
          for (int t = 0; t < p.taps(); ++t) sum += u[s] * v[t] * image[(row[s] * w + col[t]) * c + k];
        }
        y.as<float>()[(i * ow + j) * c + k] = static_cast<float>(sum);
      }
    }
  }
}

}  // namespace mrt
