// Decoding and checking of convolutions; see geometry.h.
#include "kernels/conv2d/geometry.h"

#include <cinttypes>

#include "kernels/checks.h"

namespace mrt {
namespace {

constexpr int64_t kMaxTaps = int64_t{1} << 18;  // positions of a filter: bounds the scratch of row pointers

Status check_image(const char* contract, const char* name, const Tensor& t, int64_t channels) {
  for (int32_t i = 0; i < 4; ++i) {
    if (t.shape[i] > kMaxConvExtent) {
      return fail(MRT_ERROR_SHAPE, "%s: %s has extent %" PRId64 " in dimension %d, expected at most %" PRId64, contract,
                  name, t.shape[i], i, kMaxConvExtent);
    }
  }
  return check_extent(contract, name, t, 3, channels);
}

int64_t transposed_extent(int64_t in, int64_t pad_begin, int64_t pad_end, int64_t kernel, int64_t stride,
                          int64_t dilation, int64_t output_padding) {
  if (in == 0) return 0;
  const int64_t n = (in - 1) * stride - pad_begin - pad_end + dilation * (kernel - 1) + output_padding + 1;
  return n < 0 ? 0 : n;
}

}  // namespace

const Attribute kConvAttributes[5] = {
    integers("strides", 2, 1, kMaxConvStep, 1), integers("pads", 4, 0, kMaxConvStep, 0),  // top, left, bottom, right
    integers("dilations", 2, 1, kMaxConvStep, 1), integers("kernel", 2, 1, kMaxConvStep),
    integers("channels", 2, 0, kMaxConvExtent)};  // of x and of y
const Attribute kConvGroups[1] = {integer("groups", 1, kMaxConvExtent, 1)};

Status decode_conv(const Attrs& attrs, ConvGeometry* out) {
  const char* contract = attrs.contract().name;
  int64_t strides[2], pads[4], dilations[2], extra[2] = {0, 0}, kernel[2], channels[2], groups = 1;
  MRT_TRY(attr_ints(attrs, "strides", strides));
  MRT_TRY(attr_ints(attrs, "pads", pads));
  MRT_TRY(attr_ints(attrs, "dilations", dilations));
  MRT_TRY(attr_ints(attrs, "kernel", kernel));
  MRT_TRY(attr_ints(attrs, "channels", channels));
  if (attrs.contract().find("groups") != nullptr) MRT_TRY(attr_int(attrs, "groups", &groups));
  if (attrs.contract().find("output_padding") != nullptr) MRT_TRY(attr_ints(attrs, "output_padding", extra));
  if (kernel[0] * kernel[1] > kMaxTaps) {
    return fail(MRT_ERROR_INVALID_ARGUMENT,
                "%s: a kernel of %" PRId64 " x %" PRId64 " is larger than this library takes", contract, kernel[0],
                kernel[1]);
  }
  if (channels[0] % groups != 0 || channels[1] % groups != 0) {
    return fail(MRT_ERROR_INVALID_ARGUMENT,
                "%s: %" PRId64 " input and %" PRId64 " output channels are not divisible by %" PRId64 " groups",
                contract, channels[0], channels[1], groups);
  }
  *out = ConvGeometry{strides[0], strides[1], pads[0], pads[1],     pads[2],     pads[3],  dilations[0], dilations[1],
                      kernel[0],  kernel[1],  groups,  channels[0], channels[1], extra[0], extra[1]};
  return Status();
}

int64_t conv_extent(int64_t in, int64_t pad_begin, int64_t pad_end, int64_t kernel, int64_t stride, int64_t dilation) {
  const int64_t room = in + pad_begin + pad_end - (dilation * (kernel - 1) + 1);
  return room < 0 ? 0 : room / stride + 1;
}

Status check_conv_images(const char* contract, const ConvGeometry& g, bool transposed, const Tensor& input,
                         const Tensor& output) {
  MRT_TRY(check_image(contract, "x", input, g.in_channels));
  MRT_TRY(check_image(contract, "y", output, g.out_channels));
  const int64_t *x = input.shape, *y = output.shape;
  int64_t h, w;
  if (transposed) {
    h = transposed_extent(x[1], g.pad_top, g.pad_bottom, g.kernel_h, g.stride_h, g.dilation_h, g.output_padding_h);
    w = transposed_extent(x[2], g.pad_left, g.pad_right, g.kernel_w, g.stride_w, g.dilation_w, g.output_padding_w);
  } else {
    h = conv_extent(x[1], g.pad_top, g.pad_bottom, g.kernel_h, g.stride_h, g.dilation_h);
    w = conv_extent(x[2], g.pad_left, g.pad_right, g.kernel_w, g.stride_w, g.dilation_w);
  }
  if (y[0] != x[0] || y[1] != h || y[2] != w) {
    return fail(MRT_ERROR_SHAPE,
                "%s: y is %" PRId64 " x %" PRId64 " x %" PRId64 " (batch, height, width), expected %" PRId64
                " x %" PRId64 " x %" PRId64,
                contract, y[0], y[1], y[2], x[0], h, w);
  }
  return Status();
}

Status check_conv_filter(const char* contract, const ConvGeometry& g, const Tensor& weight, int64_t d0, int64_t d1) {
  MRT_TRY(check_extent(contract, "weight", weight, 0, d0));
  MRT_TRY(check_extent(contract, "weight", weight, 1, d1));
  MRT_TRY(check_extent(contract, "weight", weight, 2, g.kernel_h));
  return check_extent(contract, "weight", weight, 3, g.kernel_w);
}

double conv_flops(const ConvGeometry& g, int64_t positions) {
  return 2.0 * static_cast<double>(positions) * static_cast<double>(g.taps()) * static_cast<double>(g.group_in()) *
         static_cast<double>(g.out_channels);
}

}  // namespace mrt
