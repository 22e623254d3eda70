// The inner functions of resize2d_f32 that every instruction set fills in, and the geometry that the reference shares.
#pragma once

#include "kernels/checks.h"

namespace mrt {

struct ResizeKernel {
  // y = sum over taps of weight * x[tap], n floats; 1 to 4 taps.
  void (*blend)(const float* const* x, const float* weight, int taps, float* y, int64_t n);
  // The same at every output position j: taps at columns index[j * taps + i] of a row of c channels.
  void (*row)(const float* x, const int32_t* index, const float* weight, int taps, float* y, int64_t positions,
              int64_t c);
};

#define MRT_TABLE ResizeKernel
#define MRT_LIST kResizeF32
#define MRT_KERNELS "kernels/resize/kernels.inc"
#include "kernels/kernel_list.inc"

struct ResizeParams {
  const ResizeKernel* kernel;
  double scales[2];  // 0: out / in
  double cubic_a;
  int32_t mode;         // nearest, linear, cubic
  int32_t coordinates;  // half_pixel, align_corners, asymmetric, pytorch_half_pixel
  int32_t rounding;     // floor, ceil, round_prefer_floor, round_prefer_ceil
  int taps() const { return mode == 0 ? 1 : mode == 1 ? 2 : 4; }
};

// Position i of `out` along an axis: taps() columns of `in` (at the edge, the nearest that exists) and their weights.
void resize_taps(const ResizeParams& p, int64_t i, int64_t in, int64_t out, double scale, int32_t* index,
                 double* weight);

void resize_reference(const ResizeParams& p, const Tensor& x, const Tensor& y);

}  // namespace mrt
