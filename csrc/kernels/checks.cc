// The checks that drivers share; see checks.h.
#include "kernels/checks.h"

#include <cinttypes>

namespace mrt {

int64_t checked_mul(int64_t a, int64_t b) {
  int64_t r;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &r) || r >= (int64_t{1} << 62)) return -1;
  return r;
}

Status check_tensor(const char* contract, const char* name, const Tensor& t, int32_t ndim) {
  if (t.absent()) return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: %s is absent, but it is needed", contract, name);
  if ((ndim >= 0 && t.ndim != ndim) || t.ndim > MRT_MAX_RANK) {
    return fail(MRT_ERROR_SHAPE, "%s: %s has %d dimensions, expected %d", contract, name, t.ndim,
                ndim < 0 ? MRT_MAX_RANK : ndim);
  }
  int64_t bytes = static_cast<int64_t>(t.dtype.bytes());
  bool empty = false;
  for (int32_t i = 0; i < t.ndim; ++i) {
    if (t.shape[i] < 0) {
      return fail(MRT_ERROR_SHAPE, "%s: %s has extent %" PRId64 " in dimension %d", contract, name, t.shape[i], i);
    }
    empty = empty || t.shape[i] == 0;
  }
  for (int32_t i = 0; i < t.ndim && !empty; ++i) bytes = checked_mul(bytes, t.shape[i]);
  if (empty) bytes = 0;
  if (bytes < 0) return fail(MRT_ERROR_SHAPE, "%s: the extents of %s are too large to address", contract, name);
  if (static_cast<uint64_t>(bytes) > t.bytes) {
    return fail(MRT_ERROR_SHAPE, "%s: %s holds %zu bytes, its shape needs %" PRId64, contract, name, t.bytes, bytes);
  }
  return Status();
}

Status check_extent(const char* contract, const char* name, const Tensor& t, int32_t dim, int64_t expected) {
  if (t.shape[dim] == expected) return Status();
  return fail(MRT_ERROR_SHAPE, "%s: %s has extent %" PRId64 " in dimension %d, expected %" PRId64, contract, name,
              t.shape[dim], dim, expected);
}

Status check_same_shape(const char* contract, const char* name, const Tensor& t, const Tensor& like) {
  MRT_TRY(check_tensor(contract, name, t, like.ndim));
  for (int32_t i = 0; i < like.ndim; ++i) MRT_TRY(check_extent(contract, name, t, i, like.shape[i]));
  return Status();
}

// ---- threads ----

void parallel_items(KernelContext& ctx, int64_t n, int64_t workers, const Body& body) {
  Watch* const watch = ctx.watch;
  if (workers > n) workers = n;
  if (ctx.pool == nullptr || workers <= 1 || n > INT32_MAX) {
    for (int64_t i = 0; i < n; ++i) {
      if (watch != nullptr && watch->stop()) throw_stopped();
      body(0, i);
    }
  } else {
    ctx.pool->parallel(static_cast<int32_t>(n), static_cast<int32_t>(std::min<int64_t>(workers, ctx.threads)),
                       [&](int32_t worker, int32_t item) {
                         if (watch == nullptr || !watch->stop()) body(worker, item);
                       });
  }
  if (watch != nullptr && watch->stopped()) throw_stopped();
}

void parallel_ranges(KernelContext& ctx, int64_t n, int64_t grain, const Body& body) {
  constexpr int64_t kMaxGrains = 256;
  if (grain < 1) grain = 1;
  const int64_t threads = ctx.pool == nullptr ? 1 : ctx.threads, grains = n / grain;
  int64_t pieces = threads <= 1 ? 1 : std::min(grains, threads * 4);
  if (ctx.watch != nullptr) pieces = std::max(pieces, grain == 1 ? n : grains / kMaxGrains);
  if (pieces <= 1) {
    if (n > 0) body(0, n);
    return;
  }
  const int64_t size = ceil_div(n, pieces);
  parallel_items(ctx, ceil_div(n, size), threads, [&](int64_t, int64_t i) {
    const int64_t begin = i * size, end = begin + size;
    body(begin, end < n ? end : n);
  });
}

}  // namespace mrt
