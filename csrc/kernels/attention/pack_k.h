// Packing of keys by squares of eight, which all but the portable kernels share. Included by one file per ISA.
#pragma once

#include "kernels/attention/generic.h"

namespace mrt {
namespace {

template <typename V>
void pack_k(const float* k, int64_t stride, int64_t keys, int64_t d, float scale, float* out) {
  for (int64_t n = 0; n < keys; n += kPanelWidth, out += d * kPanelWidth) {
    const float* from = k + n * stride;
    int64_t i = 0;
    if (keys - n >= kPanelWidth) {
      for (; i + 8 <= d; i += 8) {
        transpose8x8(from + i, stride, out + i * kPanelWidth, kPanelWidth);
        transpose8x8(from + 8 * stride + i, stride, out + i * kPanelWidth + 8, kPanelWidth);
        for (int64_t j = 0; j < 8 * kPanelWidth; j += V::width) {
          float* p = out + i * kPanelWidth + j;
          (V::load(p) * V::set(scale)).store(p);
        }
      }
    }
    pack_k_edge(from, stride, keys - n < kPanelWidth ? keys - n : kPanelWidth, i, d, scale, out);
  }
}

}  // namespace
}  // namespace mrt
