// matmul_u8, portable.
#include "kernels/qmatmul/qmatmul_kernels.h"

namespace mrt {
namespace {

constexpr int kRows = 4;

void widen(const uint8_t* x, int64_t n, int32_t zero, int16_t* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<int16_t>(x[i] - zero);
  if (n % 2 != 0) out[n] = 0;
}

void pack(const uint8_t* b, int64_t k, int64_t ldb, int64_t columns, int32_t zero, int16_t* out) {
  for (int64_t d = 0; d < 2 * pairs_of(k); ++d) {
    int16_t* const to = out + d / 2 * 2 * kPairPanel + d % 2;
    for (int64_t j = 0; j < kPairPanel; ++j) {
      const bool there = d < k && j < columns;
      to[2 * j] = static_cast<int16_t>(there ? b[d * ldb + j] - zero : 0);
    }
  }
}

void tile(const int16_t* a, int64_t lda, int64_t rows, int64_t pairs, const int16_t* panel, int32_t* acc) {
  for (int64_t i = 0; i < rows; ++i, a += lda, acc += kPairPanel) {
    int32_t sum[kPairPanel] = {};
    const int16_t* w = panel;
    for (int64_t p = 0; p < pairs; ++p, w += 2 * kPairPanel) {
      const int32_t x0 = a[2 * p], x1 = a[2 * p + 1];
      for (int64_t j = 0; j < kPairPanel; ++j) sum[j] += x0 * w[2 * j] + x1 * w[2 * j + 1];
    }
    for (int64_t j = 0; j < kPairPanel; ++j) acc[j] = sum[j];
  }
}

}  // namespace

const QMatmulKernel kQMatmul_scalar = {kRows, widen, pack, tile, nullptr, nullptr};

}  // namespace mrt
