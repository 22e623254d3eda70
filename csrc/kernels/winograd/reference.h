// Winograd convolution as its formula: what every kernel of it is tested against.
#pragma once

#include "kernels/conv2d/geometry.h"
#include "kernels/epilogue/epilogue.h"

namespace mrt {

// x, y in NHWC; w packed as conv2d_winograd_f32_nr16_v1 for tiles of m x m; bias and residual may be null.
void winograd_reference(const ConvGeometry& g, int64_t m, const Epilogue& e, const Tensor& x, const float* w,
                        const float* bias, const float* residual, const Tensor& y);

}  // namespace mrt
