// transpose: y[i_0, ..., i_n] = x with its dimensions in the order of `perm`: dimension d of y is dimension perm[d] of
// x.
//
// Dimensions of extent 1 are dropped and neighbours that stay neighbours merged. Then either the last dimension stays
// in its place, and runs of it are copied, or the problem is a set of 2-D transpositions over the two innermost
// dimensions of x and y, done in tiles.
#include "kernels/movement/movement.h"
#include "kernels/movement/reference.h"
#include "kernels/movement/transpose_kernels.h"

namespace mrt {
namespace {

constexpr const char* kName = "transpose";

constexpr Operand kInputs[] = {{"x", kWhole, kAnyRank, kBatched}};
constexpr Operand kOutputs[] = {{"y", kLikeFirst, kAnyRank}};
constexpr Attribute kAttributes[] = {integers("perm", MRT_MAX_RANK, 0, MRT_MAX_RANK - 1).with(kListed)};
constexpr Contract kContract = {kName, "", kInputs, kOutputs, kAttributes};
constexpr int64_t kTileRows = 64;

struct Params {
  const TransposeKernel* kernel;
  int64_t perm[MRT_MAX_RANK];
  int32_t rank;
};

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  Params* p = static_cast<Params*>(params);
  p->kernel = kTranspose[isa];
  MRT_TRY(attr_list(attrs, "perm", p->perm, &p->rank));
  uint32_t seen = 0;
  for (int32_t i = 0; i < p->rank; ++i) seen |= 1u << p->perm[i];
  if (seen != (1u << p->rank) - 1) {
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute 'perm' is not a permutation of 0 to %d", kName, p->rank - 1);
  }
  return Status();
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params* p = static_cast<const Params*>(params);
  MRT_TRY(check_tensor(kName, "x", in[0], p->rank));
  MRT_TRY(check_tensor(kName, "y", out[0], p->rank));
  for (int32_t i = 0; i < p->rank; ++i) MRT_TRY(check_extent(kName, "y", out[0], i, in[0].shape[p->perm[i]]));
  return Status();
}

// The problem after merging: extents and strides, in elements, of y's dimensions.
struct Problem {
  int32_t rank;
  int64_t extent[MRT_MAX_RANK], x_stride[MRT_MAX_RANK], y_stride[MRT_MAX_RANK];
};

Problem merge(const Params& p, const Tensor& x) {
  int64_t stride[MRT_MAX_RANK];
  for (int64_t d = x.ndim - 1, s = 1; d >= 0; s *= x.shape[d], --d) stride[d] = s;
  Problem q{};
  for (int32_t i = 0; i < p.rank; ++i) {
    const int64_t d = p.perm[i], extent = x.shape[d];
    if (extent == 1) continue;
    if (q.rank > 0 && q.x_stride[q.rank - 1] == stride[d] * extent) {
      q.extent[q.rank - 1] *= extent;
      q.x_stride[q.rank - 1] = stride[d];
    } else {
      q.extent[q.rank] = extent;
      q.x_stride[q.rank++] = stride[d];
    }
  }
  int64_t s = 1;
  for (int32_t d = q.rank - 1; d >= 0; --d) {
    q.y_stride[d] = s;
    s *= q.extent[d];
  }
  return q;
}

// Offsets of the combination number `i` of all dimensions but those in `skip` (a bit mask).
void offsets_of(const Problem& q, uint32_t skip, int64_t i, int64_t* x, int64_t* y) {
  *x = *y = 0;
  for (int32_t d = q.rank - 1; d >= 0; --d) {
    if ((skip >> d & 1) != 0) continue;
    *x += i % q.extent[d] * q.x_stride[d];
    *y += i % q.extent[d] * q.y_stride[d];
    i /= q.extent[d];
  }
}

void copy_runs(const Problem& q, const char* x, char* y, int64_t size, KernelContext& ctx) {
  StridedCopy c{};
  c.rank = q.rank - 1;
  c.run = q.extent[q.rank - 1] * size;
  for (int32_t d = 0; d < c.rank; ++d) {
    c.extent[d] = q.extent[d];
    c.x_stride[d] = q.x_stride[d] * size;
  }
  copy_strided(c, x, y, ctx);
}

template <typename T>
void copy_tiles(const Problem& q, void (*tile)(const T*, int64_t, T*, int64_t, int64_t, int64_t), const void* x,
                void* y, KernelContext& ctx) {
  const int32_t row = q.rank - 1;  // innermost in y: the rows of x's 2-D pictures
  int32_t col = 0;                 // innermost in x
  while (q.x_stride[col] != 1) ++col;
  const uint32_t skip = 1u << row | 1u << col;
  int64_t outer = 1;
  for (int32_t d = 0; d < q.rank; ++d) outer *= (skip >> d & 1) != 0 ? 1 : q.extent[d];
  const int64_t rows = q.extent[row], cols = q.extent[col];
  const int64_t size = static_cast<int64_t>(sizeof(T)), row_blocks = ceil_div(rows, kTileRows);
  // A picture of few rows (the channels of an image) is wide enough to be cut along its columns, too.
  const int64_t line = (rows < kTileRows ? rows : kTileRows) * size;
  const int64_t width = ceil_div(kMoveGrain, line * kTileRows) * kTileRows, col_blocks = ceil_div(cols, width);
  const int64_t bytes = line * (cols < width ? cols : width);
  parallel_ranges(ctx, outer * row_blocks * col_blocks, kMoveGrain / bytes, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t from, to;
      offsets_of(q, skip, i / col_blocks / row_blocks, &from, &to);
      const int64_t r = i / col_blocks % row_blocks * kTileRows, n = rows - r < kTileRows ? rows - r : kTileRows;
      const int64_t c = i % col_blocks * width, m = cols - c < width ? cols - c : width;
      tile(static_cast<const T*>(x) + from + r * q.x_stride[row] + c, q.x_stride[row],
           static_cast<T*>(y) + to + r + c * q.y_stride[col], q.y_stride[col], n, m);
    }
  });
}

void run_reference(const Params& p, const Tensor& x, const Tensor& y) {
  move_reference(x, y, nullptr, [&](const int64_t* index) {
    int64_t from[MRT_MAX_RANK];
    for (int32_t i = 0; i < p.rank; ++i) from[p.perm[i]] = index[i];
    return flat_index(x, from);
  });
}

int32_t run(const void* params, const Tensor* in, int, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  if (has_no_elements(in[0])) return MRT_OK;
  if (p.kernel == nullptr) {
    run_reference(p, in[0], out[0]);
    return MRT_OK;
  }
  Problem q = merge(p, in[0]);
  int64_t size = static_cast<int64_t>(in[0].dtype.bytes());
  const char* x = in[0].as<char>();
  char* y = out[0].as<char>();
  if (q.rank > 1 && q.x_stride[q.rank - 1] == 1) {
    const int64_t run = q.extent[q.rank - 1];
    if (run * size > 8 || (run * size & (run * size - 1)) != 0) {
      copy_runs(q, x, y, size, ctx);
      return MRT_OK;
    }
    // A run as short as an element is one.
    --q.rank;
    size *= run;
    for (int32_t d = 0; d < q.rank; ++d) {
      q.x_stride[d] /= run;
      q.y_stride[d] /= run;
    }
  }
  if (q.rank <= 1) {
    const int64_t bytes = (q.rank == 0 ? 1 : q.extent[0]) * size;
    parallel_ranges(ctx, bytes, kMoveGrain, [&](int64_t begin, int64_t end) {
      __builtin_memcpy(y + begin, x + begin, static_cast<size_t>(end - begin));
    });
    return MRT_OK;
  }
  switch (size) {
    case 1:
      copy_tiles<uint8_t>(q, p.kernel->tile1, x, y, ctx);
      break;
    case 2:
      copy_tiles<uint16_t>(q, p.kernel->tile2, x, y, ctx);
      break;
    case 4:
      copy_tiles<uint32_t>(q, p.kernel->tile4, x, y, ctx);
      break;
    default:
      copy_tiles<uint64_t>(q, p.kernel->tile8, x, y, ctx);
      break;
  }
  return MRT_OK;
}

bool separable(const void* params, const Tensor*, int) {
  const Params& p = *static_cast<const Params*>(params);
  return p.rank > 0 && p.perm[0] == 0;
}

}  // namespace

const Operator kOperator_transpose = {&kContract, kTranspose.rows, sizeof(Params), prepare, check,
                                      run,        nullptr,         nullptr,        nullptr, separable};

}  // namespace mrt
