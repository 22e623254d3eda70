// Convolution of 8-bit integers as its formula: what every kernel of it is tested against.
#pragma once

#include "kernels/conv2d/geometry.h"
#include "kernels/qgemm/blocked.h"

namespace mrt {

// x, y in NHWC; w packed as conv2d_u8s8_nr16_v1 with so many taps.
void qconv2d_reference(const ConvGeometry& g, int64_t taps, int64_t x_zero, const QFinishCall& f, const Tensor& x,
                       const char* w, const Tensor& y);

}  // namespace mrt
