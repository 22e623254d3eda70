// What the depthwise operators share: attributes, packing, and a row of the output from lines of floats.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/checks.h"
#include "kernels/conv2d/geometry.h"
#include "kernels/depthwise/row.h"

namespace mrt {

// Attributes of a convolution whose filters see one channel each, `max_repeats` of them the same one; `groups` may be
// left out.
extern const Attribute kDepthwiseGroups[1];
Status decode_depthwise(const Attrs& attrs, int64_t max_repeats, ConvGeometry* g);

// Filters [O, 1, kh, kw] of any number as floats [ceil(O / 8)][kh * kw][8], missing channels zero.
int64_t depthwise_blocks(int64_t channels);
int64_t depthwise_packed_bytes(const ConvGeometry& g);  // -1 if that does not fit in 62 bits
template <typename T>
void depthwise_pack(const ConvGeometry& g, const T* w, float* to) {
  for (int64_t block = 0; block < depthwise_blocks(g.out_channels); ++block)
    for (int64_t t = 0; t < g.taps(); ++t)
      for (int64_t j = 0; j < kChannelBlock; ++j) {
        const int64_t c = block * kChannelBlock + j;
        *to++ = c < g.out_channels ? static_cast<float>(w[c * g.taps() + t]) : 0.0f;
      }
}

// Lines of the image made into floats, `chunk` of each pixel's channels next to each other and each line once: line ih
// is in slot ih % slots.
struct LineRing {
  int64_t slots, width, chunk;

  // Of an image of height h; `more` are further floats a channel that should be near with the lines.
  LineRing(const ConvGeometry& g, int64_t h, int64_t w, int64_t more);
  size_t lines_bytes() const { return align64(static_cast<size_t>(slots * width * chunk) * sizeof(float)); }
  size_t bytes() const { return lines_bytes() + align64(static_cast<size_t>(slots) * sizeof(int64_t)); }

  void forget(char* at) const { std::fill_n(tags(at), slots, int64_t{-1}); }  // other channels follow
  // The lines that row r of all output rows sees, to `lines`; those outside of the image are null.
  // make(line, to) makes one of all images' lines.
  template <typename Make>
  void fill(const ConvGeometry& g, int64_t h, int64_t out_h, int64_t r, char* at, const float** lines,
            Make&& make) const {
    const int64_t first = r % out_h * g.stride_h - g.pad_top;
    for (int64_t kh = 0; kh < g.kernel_h; ++kh) {
      const int64_t ih = first + kh * g.dilation_h;
      lines[kh] = nullptr;
      if (ih < 0 || ih >= h) continue;
      const int64_t slot = ih % slots, line = r / out_h * h + ih;
      float* const to = reinterpret_cast<float*>(at) + slot * width * chunk;
      if (tags(at)[slot] != line) {
        make(line, to);
        tags(at)[slot] = line;
      }
      lines[kh] = to;
    }
  }

 private:
  int64_t* tags(char* at) const { return reinterpret_cast<int64_t*>(at + lines_bytes()); }
};

struct DepthwiseImage {
  const ConvGeometry* g;
  const DepthwiseTable* table;
  int64_t h, w, out_w;
};

size_t depthwise_scratch(const ConvGeometry& g);  // of each thread; aligned to 64 bytes
// In such scratch: the lines of the image at each row of the filter, to be filled in; those outside are not read.
const float** depthwise_lines(char* scratch);
// Row oh of the output: `d` without what this finds out (taps, count, and how y and residual go on).
void depthwise_row(const DepthwiseImage& m, DepthwiseRow d, int64_t oh, char* scratch);

}  // namespace mrt
