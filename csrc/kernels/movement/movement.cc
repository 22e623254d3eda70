// What the operators that only move data share; see movement.h.
#include "kernels/movement/movement.h"

#include <cinttypes>

namespace mrt {

Status check_axis(const char* contract, int64_t axis, int32_t rank, int32_t* out) {
  const int64_t a = axis < 0 ? axis + rank : axis;
  if (a < 0 || a >= rank) {
    return fail(MRT_ERROR_SHAPE, "%s: axis %" PRId64 " does not exist in %d dimensions", contract, axis, rank);
  }
  *out = static_cast<int32_t>(a);
  return Status();
}

void copy_strided(const StridedCopy& c, const char* x, char* y, KernelContext& ctx) {
  int64_t runs = 1;
  for (int32_t d = 0; d < c.rank; ++d) runs *= c.extent[d];
  if (c.run == 0) return;
  parallel_ranges(ctx, runs, kMoveGrain / c.run, [&](int64_t begin, int64_t end) {
    int64_t index[MRT_MAX_RANK], from = 0;
    for (int64_t d = c.rank - 1, i = begin; d >= 0; i /= c.extent[d], --d) {
      index[d] = i % c.extent[d];
      from += index[d] * c.x_stride[d];
    }
    for (int64_t i = begin; i < end; ++i) {
      copy_run(y + i * c.run, x + from, static_cast<size_t>(c.run));
      for (int32_t d = c.rank - 1; d >= 0; --d) {
        from += c.x_stride[d];
        if (++index[d] < c.extent[d]) break;
        from -= c.extent[d] * c.x_stride[d];
        index[d] = 0;
      }
    }
  });
}

}  // namespace mrt
