// Packing of weights into panels of 16 columns, [ceil(n / 16)][k][16], missing columns zero. Portable.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace mrt {

constexpr int64_t kMaxExtent = int64_t{1} << 40;  // of a product's n and k

// From src, whose element (k, n) is at src[k * stride_k + n * stride_n].
void pack_panels(const float* src, int64_t k, int64_t n, int64_t stride_k, int64_t stride_n, float* out);
// Panels [p0, p1) of the same, each element times alpha; out is the start of panel 0.
void pack_panels_scaled(const float* src, int64_t k, int64_t n, int64_t stride_k, int64_t stride_n, float alpha,
                        int64_t p0, int64_t p1, float* out);
// Bytes of the packed form, -1 if that does not fit in 62 bits.
int64_t packed_panel_bytes(int64_t k, int64_t n);

// The weight operand of a step holds at least `bytes` (-1: more than can be addressed).
Status check_packed(const char* contract, const Tensor& weight, int64_t bytes);

}  // namespace mrt
