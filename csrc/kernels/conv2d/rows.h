// Where the rows of a convolution's matrix product lie: output pixel m, tap t -> the input floats that they multiply.
#pragma once

#include <cstdint>

#include "kernels/conv2d/geometry.h"

namespace mrt {

// A convolution over NHWC. `kernel_w` positions of the filter next to each other count as one tap of
// kernel_w * channels elements (taps_w is 1) where the image needs no padding to the left and right.
template <typename T>
struct ConvRowsOf {
  const T* x;      // the first image
  const T* zeros;  // what padding reads: as many as a tap in all groups
  int64_t h, w;    // of the input
  int64_t out_h, out_w;
  int64_t pad_top, pad_left;
  int64_t stride_h, stride_w, dilation_h, dilation_w;
  int64_t kernel_h, taps_w;
  int64_t pixel, line, image;  // elements from one to the next
};
using ConvRows = ConvRowsOf<float>;

// Without zeros. Of float and uint8_t.
template <typename T>
ConvRowsOf<T> conv_rows_of(const ConvGeometry& g, const Tensor& x, const Tensor& y, int64_t taps_w);

// A Product::rows_of; user is a ConvRowsOf<T>. Of float and uint8_t.
template <typename T>
void conv_rows(const void* user, int64_t m0, int64_t rows, const T** out);

}  // namespace mrt
