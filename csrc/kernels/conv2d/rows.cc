// Row pointers of a convolution; see rows.h.
#include "kernels/conv2d/rows.h"

namespace mrt {

void conv_rows(const void* user, int64_t m0, int64_t rows, const float** out) {
  const ConvRows& r = *static_cast<const ConvRows*>(user);
  int64_t ow = m0 % r.out_w, oh = m0 / r.out_w % r.out_h;
  const float* image = r.x + m0 / r.out_w / r.out_h * r.image;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t ih0 = oh * r.stride_h - r.pad_top, iw0 = ow * r.stride_w - r.pad_left;
    const float** to = out + i;
    for (int64_t kh = 0; kh < r.kernel_h; ++kh) {
      const int64_t ih = ih0 + kh * r.dilation_h;
      // One comparison for both ends: a negative position is a large unsigned one.
      const bool inside = static_cast<uint64_t>(ih) < static_cast<uint64_t>(r.h);
      const float* line = inside ? image + ih * r.line : nullptr;
      for (int64_t kw = 0; kw < r.taps_w; ++kw, to += rows) {
        const int64_t iw = iw0 + kw * r.dilation_w;
        *to = inside && static_cast<uint64_t>(iw) < static_cast<uint64_t>(r.w) ? line + iw * r.pixel : r.zeros;
      }
    }
    if (++ow == r.out_w) {
      ow = 0;
      if (++oh == r.out_h) {
        oh = 0;
        image += r.image;
      }
    }
  }
}

}  // namespace mrt
