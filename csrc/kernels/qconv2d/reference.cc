// Convolution of 8-bit integers as its formula; see reference.h.
#include "kernels/qconv2d/reference.h"

#include "kernels/qgemm/reference.h"

namespace mrt {

void qconv2d_reference(const ConvGeometry& g, int64_t taps, int64_t x_zero, const QFinishCall& f, const Tensor& x,
                       const char* w, const int8_t* w_zero, const Tensor& y) {
  const int64_t h = x.shape[1], width = x.shape[2], c = g.group_in(), o = g.group_out();
  const int64_t positions = g.taps() / taps;  // of the filter in a tap
  const QPanelLayout l = q_panel_layout(taps, positions * c);
  const int64_t group_bytes = q_packed_bytes(taps, positions * c, o);
  const uint8_t* in = x.as<const uint8_t>();
  int64_t row = 0;
  for (int64_t n = 0; n < y.shape[0]; ++n)
    for (int64_t oh = 0; oh < y.shape[1]; ++oh)
      for (int64_t ow = 0; ow < y.shape[2]; ++ow, ++row)
        for (int64_t channel = 0; channel < g.out_channels; ++channel) {
          const int64_t group = channel / o, zero = w_zero ? w_zero[channel] : 0;
          int64_t sum = 0;
          for (int64_t position = 0; position < g.taps(); ++position) {
            const int64_t ih = oh * g.stride_h - g.pad_top + position / g.kernel_w * g.dilation_h;
            const int64_t iw = ow * g.stride_w - g.pad_left + position % g.kernel_w * g.dilation_w;
            if (ih < 0 || ih >= h || iw < 0 || iw >= width) continue;
            const uint8_t* pixel = in + ((n * h + ih) * width + iw) * g.in_channels + group * c;
            for (int64_t i = 0; i < c; ++i) {
              const int64_t k = position % positions * c + i;
              sum += (pixel[i] - x_zero) *
                     (q_packed_weight(w + group * group_bytes, l, position / positions, k, channel % o) - zero);
            }
          }
          q_reference_element(f, sum, row, channel);
        }
}

}  // namespace mrt
