// What the depthwise operators share: attributes, packing, and a row of the output from lines of floats.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/conv2d/geometry.h"
#include "kernels/depthwise/row.h"

namespace mrt {

// Attributes of a convolution with one filter a channel; `groups` may be left out.
Status decode_depthwise(const Attrs& attrs, const char* contract, ConvGeometry* g);

// Filters [C, 1, kh, kw] of any number as floats [ceil(C / 8)][kh * kw][8], missing channels zero.
int64_t depthwise_blocks(int64_t channels);
int64_t depthwise_packed_bytes(const ConvGeometry& g);  // -1 if that does not fit in 62 bits
template <typename T>
void depthwise_pack(const ConvGeometry& g, const T* w, float* to) {
  for (int64_t block = 0; block < depthwise_blocks(g.in_channels); ++block)
    for (int64_t t = 0; t < g.taps(); ++t)
      for (int64_t j = 0; j < kChannelBlock; ++j) {
        const int64_t c = block * kChannelBlock + j;
        *to++ = c < g.in_channels ? static_cast<float>(w[c * g.taps() + t]) : 0.0f;
      }
}

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
