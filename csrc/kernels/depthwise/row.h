// The inner loops of depthwise convolution: pixels of one output row that see the same positions of the filter.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace mrt {

constexpr int64_t kChannelBlock = 8;  // of the packing: [ceil(C / 8)][kh * kw][8]

struct DepthwiseRow {
  const float* const* taps;      // first pixel's input at each position of the filter that lies inside the image
  const int64_t* weight_offset;  // of that position in a block of w, in floats
  int64_t n_taps;
  int64_t n_lines;   // where the positions are whole lines of the filter: how many; then taps[i * K] starts line i
  int64_t step;      // floats from one output pixel's input to the next's
  int64_t pixel;     // floats from one input pixel to the next
  int64_t count;     // output pixels
  int64_t channels;  // floats from one output pixel to the next
  int64_t n;         // channels to compute, of all pointers here the first
  const float* w;
  int64_t w_block;    // floats of one block of 8 channels
  const float* bias;  // null or [n]
  float* y;
  const float* residual;
  float lo, hi;
  bool residual_after;
};

struct DepthwiseTable {
  void (*any)(const DepthwiseRow&);    // any filter
  void (*k3[2])(const DepthwiseRow&);  // 3 taps a line next to each other, stride 1 and 2
  void (*k5[2])(const DepthwiseRow&);
};
#define MRT_TABLE DepthwiseTable
#define MRT_LIST kDepthwise
#define MRT_KERNELS "kernels/depthwise/kernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
