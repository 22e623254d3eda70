// The attributes that convolutions share, and the relation of extents that they imply.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace mrt {

struct ConvGeometry {
  int64_t stride_h, stride_w;
  int64_t pad_top, pad_left, pad_bottom, pad_right;
  int64_t dilation_h, dilation_w;
  int64_t kernel_h, kernel_w;
  int64_t groups;
  int64_t in_channels, out_channels;           // over all groups
  int64_t output_padding_h, output_padding_w;  // of a transposed convolution

  int64_t taps() const { return kernel_h * kernel_w; }
  int64_t group_in() const { return in_channels / groups; }
  int64_t group_out() const { return out_channels / groups; }
};

// Largest extent of one image dimension or number of channels, so that offsets fit in 64 bits whatever a file says.
constexpr int64_t kMaxConvExtent = int64_t{1} << 31;

constexpr int64_t kMaxConvStep = int64_t{1} << 20;  // strides, pads, dilations, kernel extents

extern const Attribute kConvAttributes[5];
extern const Attribute kConvGroups[1];
// Those, groups, and output_padding where the contract has it.
Status decode_conv(const Attrs& attrs, ConvGeometry* out);

// Extent of the output of a convolution over `in` positions; 0 where the filter does not fit.
int64_t conv_extent(int64_t in, int64_t pad_begin, int64_t pad_end, int64_t kernel, int64_t stride, int64_t dilation);

// Ranks and extents of x and y, of whatever type.
Status check_conv_images(const char* contract, const ConvGeometry& g, bool transposed, const Tensor& input,
                         const Tensor& output);

// The weight that is to be packed: extents as given in four dimensions, kernel, channels and groups as in attrs.
Status check_conv_filter(const char* contract, const ConvGeometry& g, const Tensor& weight, int64_t d0, int64_t d1);

double conv_flops(const ConvGeometry& g, int64_t positions);

}  // namespace mrt
