// Packing of keys, which AVX2 and what is wider share. Included by one file per ISA.
#pragma once

#include "kernels/attention/generic.h"

namespace mrt {
namespace {

void pack_k(const float* k, int64_t stride, int64_t keys, int64_t d, float scale, float* out) {
  for (int64_t n = 0; n < keys; n += kPanelWidth, out += d * kPanelWidth) {
    const float* from = k + n * stride;
    int64_t i = 0;
    if (keys - n >= kPanelWidth) {
      for (; i + 8 <= d; i += 8) {
        transpose8x8(from + i, stride, out + i * kPanelWidth, kPanelWidth);
        transpose8x8(from + 8 * stride + i, stride, out + i * kPanelWidth + 8, kPanelWidth);
        for (int64_t j = 0; j < 8 * kPanelWidth; j += 8) {
          float* p = out + i * kPanelWidth + j;
          (F32x8::load(p) * F32x8::set(scale)).store(p);
        }
      }
    }
    pack_k_edge(from, stride, keys - n < kPanelWidth ? keys - n : kPanelWidth, i, d, scale, out);
  }
}

}  // namespace
}  // namespace mrt
