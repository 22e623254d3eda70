// Row pointers of a convolution; see rows.h.
#include "kernels/conv2d/rows.h"

#include <algorithm>

#include "kernels/gemm/tile.h"
#include "kernels/qgemm/tile.h"

namespace mrt {
namespace {

constexpr int kMaxRows = std::max<int>(kMaxTileRows, kQMaxRows);

// Where the filter stands for each row of a tile.
template <typename T>
struct Starts {
  const T* image[kMaxRows];
  int64_t h[kMaxRows], w[kMaxRows];
  bool inside;  // no position of the filter is outside of the image in any row
};

template <typename T>
void find_starts(const ConvRowsOf<T>& r, int64_t m0, int64_t rows, Starts<T>* s) {
  const int64_t last_h = r.h - (r.kernel_h - 1) * r.dilation_h, last_w = r.w - (r.taps_w - 1) * r.dilation_w;
  int64_t ow = m0 % r.out_w, oh = m0 / r.out_w % r.out_h;
  const T* image = r.x + m0 / r.out_w / r.out_h * r.image;
  s->inside = true;
  for (int64_t i = 0; i < rows; ++i) {
    s->image[i] = image;
    s->h[i] = oh * r.stride_h - r.pad_top;
    s->w[i] = ow * r.stride_w - r.pad_left;
    s->inside = s->inside && s->h[i] >= 0 && s->h[i] < last_h && s->w[i] >= 0 && s->w[i] < last_w;
    if (++ow == r.out_w) {
      ow = 0;
      if (++oh == r.out_h) {
        oh = 0;
        image += r.image;
      }
    }
  }
}

}  // namespace

template <typename T>
ConvRowsOf<T> conv_rows_of(const ConvGeometry& g, const Tensor& x, const Tensor& y, int64_t taps_w) {
  const int64_t line = x.shape[2] * g.in_channels;
  ConvRowsOf<T> r{};
  r.x = x.as<const T>();
  r.h = x.shape[1];
  r.w = x.shape[2];
  r.out_h = y.shape[1];
  r.out_w = y.shape[2];
  r.pad_top = g.pad_top;
  r.pad_left = g.pad_left;
  r.stride_h = g.stride_h;
  r.stride_w = g.stride_w;
  r.dilation_h = g.dilation_h;
  r.dilation_w = g.dilation_w;
  r.kernel_h = g.kernel_h;
  r.taps_w = taps_w;
  r.pixel = g.in_channels;
  r.line = line;
  r.image = x.shape[1] * line;
  return r;
}
template ConvRowsOf<float> conv_rows_of(const ConvGeometry& g, const Tensor& x, const Tensor& y, int64_t taps_w);
template ConvRowsOf<uint8_t> conv_rows_of(const ConvGeometry& g, const Tensor& x, const Tensor& y, int64_t taps_w);

template <typename T>
void conv_rows(const void* user, int64_t m0, int64_t rows, const T** out) {
  const ConvRowsOf<T>& r = *static_cast<const ConvRowsOf<T>*>(user);
  Starts<T> s;
  find_starts(r, m0, rows, &s);
  if (s.inside) {  // most tiles of most layers: one addition a pointer
    const T* first[kMaxRows];
    for (int64_t i = 0; i < rows; ++i) first[i] = s.image[i] + s.h[i] * r.line + s.w[i] * r.pixel;
    for (int64_t kh = 0; kh < r.kernel_h; ++kh) {
      for (int64_t kw = 0; kw < r.taps_w; ++kw, out += rows) {
        const int64_t offset = kh * r.dilation_h * r.line + kw * r.dilation_w * r.pixel;
        for (int64_t i = 0; i < rows; ++i) out[i] = first[i] + offset;
      }
    }
    return;
  }
  for (int64_t kh = 0; kh < r.kernel_h; ++kh) {
    for (int64_t kw = 0; kw < r.taps_w; ++kw, out += rows) {
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t h = s.h[i] + kh * r.dilation_h, w = s.w[i] + kw * r.dilation_w;
        // One comparison for both ends: a negative position is a large unsigned one.
        const bool inside = static_cast<uint64_t>(h) < static_cast<uint64_t>(r.h) &&
                            static_cast<uint64_t>(w) < static_cast<uint64_t>(r.w);
        out[i] = inside ? s.image[i] + h * r.line + w * r.pixel : r.zeros;
      }
    }
  }
}

template void conv_rows<float>(const void*, int64_t, int64_t, const float**);
template void conv_rows<uint8_t>(const void*, int64_t, int64_t, const uint8_t**);

}  // namespace mrt
