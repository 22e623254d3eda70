// Convolution as its formula: what every kernel of it is tested against.
#pragma once

#include "kernels/conv2d/geometry.h"
#include "kernels/epilogue/epilogue.h"

namespace mrt {

// x, y in NHWC; w packed as conv2d_f32_nr16_v1; bias and residual may be null.
void conv2d_reference(const ConvGeometry& g, const Epilogue& e, const Tensor& x, const float* w, const float* bias,
                      const float* residual, const Tensor& y);

}  // namespace mrt
