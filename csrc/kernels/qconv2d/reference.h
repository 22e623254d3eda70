// Convolution of 8-bit integers as its formula: what every kernel of it is tested against.
#pragma once

#include "kernels/conv2d/geometry.h"
#include "kernels/qgemm/blocked.h"

namespace mrt {

// x, y in NHWC; w packed as conv2d_u8s8_nr16_v2 with so many taps, its zero points null or [O].
void qconv2d_reference(const ConvGeometry& g, int64_t taps, int64_t x_zero, const QFinishCall& f, const Tensor& x,
                       const char* w, const int8_t* w_zero, const Tensor& y);

}  // namespace mrt
