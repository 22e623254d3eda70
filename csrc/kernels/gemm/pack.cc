// Packing of weights into panels; see pack.h.
#include "kernels/gemm/pack.h"

#include <cinttypes>
#include <cstring>

#include "kernels/checks.h"
#include "kernels/gemm/blocked.h"

namespace mrt {
namespace {

// Columns next to each other in memory.
void pack_rows(const float* src, int64_t k, int64_t columns, int64_t stride_k, float alpha, float* out) {
  if (columns == kPanel && alpha == 1.0f) {
    for (int64_t i = 0; i < k; ++i) std::memcpy(out + i * kPanel, src + i * stride_k, kPanel * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < kPanel; ++j) out[i * kPanel + j] = j < columns ? src[i * stride_k + j] * alpha : 0.0f;
  }
}

// Any strides: a column at a time within pieces of the depth that stay in L1.
void pack_columns(const float* src, int64_t k, int64_t columns, int64_t stride_k, int64_t stride_n, float alpha,
                  float* out) {
  constexpr int64_t kPiece = 64;
  for (int64_t begin = 0; begin < k; begin += kPiece) {
    const int64_t end = begin + kPiece < k ? begin + kPiece : k;
    for (int64_t j = 0; j < kPanel; ++j) {
      if (j < columns) {
        for (int64_t i = begin; i < end; ++i) out[i * kPanel + j] = src[i * stride_k + j * stride_n] * alpha;
      } else {
        for (int64_t i = begin; i < end; ++i) out[i * kPanel + j] = 0.0f;
      }
    }
  }
}

}  // namespace

void pack_panels_scaled(const float* src, int64_t k, int64_t n, int64_t stride_k, int64_t stride_n, float alpha,
                        int64_t p0, int64_t p1, float* out) {
  for (int64_t p = p0; p < p1; ++p) {
    const int64_t left = n - p * kPanel, columns = left < kPanel ? left : kPanel;
    const float* from = src + p * kPanel * stride_n;
    float* to = out + p * k * kPanel;
    if (stride_n == 1) {
      pack_rows(from, k, columns, stride_k, alpha, to);
    } else {
      pack_columns(from, k, columns, stride_k, stride_n, alpha, to);
    }
  }
}

void pack_panels(const float* src, int64_t k, int64_t n, int64_t stride_k, int64_t stride_n, float* out) {
  pack_panels_scaled(src, k, n, stride_k, stride_n, 1.0f, 0, panels_of(n), out);
}

int64_t packed_panel_bytes(int64_t k, int64_t n) {
  return n < 0 ? -1 : checked_mul(checked_mul(panels_of(n), k), kPanel * static_cast<int64_t>(sizeof(float)));
}

Status check_packed(const char* contract, const Tensor& weight, int64_t bytes) {
  if (weight.absent()) return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: the packed weight is absent", contract);
  if (bytes < 0) return fail(MRT_ERROR_SHAPE, "%s: the extents of the weight are too large to address", contract);
  if (static_cast<uint64_t>(bytes) > weight.bytes) {
    return fail(MRT_ERROR_SHAPE, "%s: the packed weight holds %zu bytes, the attributes need %" PRId64, contract,
                weight.bytes, bytes);
  }
  return Status();
}

}  // namespace mrt
