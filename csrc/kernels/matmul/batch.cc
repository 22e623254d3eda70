// Batch dimensions of products of two run-time operands; see batch.h.
#include "kernels/matmul/batch.h"

#include <algorithm>
#include <cinttypes>

namespace mrt {

int64_t matrix_of(const Tensor& t, const Tensor& y, int64_t index) {
  int64_t matrix = 0, step = 1;
  for (int32_t i = t.ndim - 3, j = y.ndim - 3; i >= 0; --i, --j) {
    if (t.shape[i] != 1) matrix += index % y.shape[j] * step;
    index /= y.shape[j];
    step *= t.shape[i];
  }
  return matrix;
}

Status check_batch(const char* contract, const Tensor& a, const Tensor& b, const Tensor& y) {
  if (a.ndim < 2 || b.ndim < 2) {
    return fail(MRT_ERROR_SHAPE, "%s: a has %d and b has %d dimensions, expected at least two", contract, a.ndim,
                b.ndim);
  }
  const int32_t rank = std::max(a.ndim, b.ndim);
  if (y.ndim != rank) {
    return fail(MRT_ERROR_SHAPE, "%s: y has %d dimensions, expected %d", contract, y.ndim, rank);
  }
  for (int32_t i = 3; i <= rank; ++i) {
    const int64_t da = i <= a.ndim ? a.shape[a.ndim - i] : 1, db = i <= b.ndim ? b.shape[b.ndim - i] : 1;
    if (da != db && da != 1 && db != 1) {
      return fail(MRT_ERROR_SHAPE, "%s: extents %" PRId64 " of a and %" PRId64 " of b do not broadcast", contract, da,
                  db);
    }
    MRT_TRY(check_extent(contract, "y", y, rank - i, da == 1 ? db : da));
  }
  return Status();
}

}  // namespace mrt
