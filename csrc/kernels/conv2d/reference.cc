// Convolution as its formula, in double precision.
#include "kernels/conv2d/reference.h"

#include "kernels/gemm/reference.h"

namespace mrt {

void conv2d_reference(const ConvGeometry& g, const Epilogue& e, const Tensor& x, const float* w, const float* bias,
                      const float* residual, const Tensor& y) {
  const int64_t h = x.shape[1], width = x.shape[2], c = g.group_in(), o = g.group_out(), depth = g.taps() * c;
  const int64_t group_size = panels_of(o) * depth * kPanel;
  const float* in = x.as<const float>();
  float* out = y.as<float>();
  int64_t index = 0;
  for (int64_t n = 0; n < y.shape[0]; ++n)
    for (int64_t oh = 0; oh < y.shape[1]; ++oh)
      for (int64_t ow = 0; ow < y.shape[2]; ++ow)
        for (int64_t channel = 0; channel < g.out_channels; ++channel, ++index) {
          const int64_t group = channel / o;
          double sum = 0.0;
          for (int64_t kh = 0; kh < g.kernel_h; ++kh)
            for (int64_t kw = 0; kw < g.kernel_w; ++kw) {
              const int64_t ih = oh * g.stride_h - g.pad_top + kh * g.dilation_h;
              const int64_t iw = ow * g.stride_w - g.pad_left + kw * g.dilation_w;
              if (ih < 0 || ih >= h || iw < 0 || iw >= width) continue;
              const float* pixel = in + ((n * h + ih) * width + iw) * g.in_channels + group * c;
              for (int64_t i = 0; i < c; ++i) {
                const int64_t k = (kh * g.kernel_w + kw) * c + i;
                sum += static_cast<double>(pixel[i]) *
                       static_cast<double>(panel_element(w + group * group_size, depth, k, channel % o));
              }
            }
          out[index] =
              epilogue_reference(e, sum, bias ? bias + channel : nullptr, residual ? residual + index : nullptr);
        }
}

}  // namespace mrt
