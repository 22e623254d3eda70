// gather: y = x with dimension `axis` replaced by the dimensions of `indices`; a negative axis counts from the end, and
// so does a negative index where it `wraps`. An index that does not exist is MRT_ERROR_RUN, and nothing is read for it.
#include "kernels/movement/movement.h"
#include "kernels/movement/reference.h"

namespace mrt {
namespace {

constexpr const char* kName = "gather";

constexpr Operand kInputs[] = {{"x", kWhole, kAnyRank}, {"indices", kS32 | kS64, kAnyRank}};
constexpr Operand kOutputs[] = {{"y", kLikeFirst, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("axis", -MRT_MAX_RANK, MRT_MAX_RANK - 1, 0), integer("wraps", 0, 1, 1)};
constexpr Contract kContract = {kName, "", kInputs, kOutputs, kAttributes};

struct Params {
  int64_t axis, wraps;
  int64_t reference;
};

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  Params* p = static_cast<Params*>(params);
  p->reference = isa == Isa::reference ? 1 : 0;
  MRT_TRY(attr_int(attrs, "axis", &p->axis));
  return attr_int(attrs, "wraps", &p->wraps);
}

// Extents of y before the axis are x's, then come those of indices, then the rest of x's.
Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Tensor &x = in[0], &indices = in[1], &y = out[0];
  int32_t axis;
  MRT_TRY(check_axis(kName, static_cast<const Params*>(params)->axis, x.ndim, &axis));
  MRT_TRY(check_tensor(kName, "y", y, x.ndim - 1 + indices.ndim));
  for (int32_t d = 0; d < y.ndim; ++d) {
    const int64_t expected = d < axis                  ? x.shape[d]
                             : d < axis + indices.ndim ? indices.shape[d - axis]
                                                       : x.shape[d - indices.ndim + 1];
    MRT_TRY(check_extent(kName, "y", y, d, expected));
  }
  return Status();
}

// The index number i, counted from the start; -1 if it does not exist.
int64_t index_at(const Tensor& indices, int64_t i, int64_t extent, int64_t wraps = 1) {
  int64_t k = indices.dtype.bits == 32 ? indices.as<int32_t>()[i] : indices.as<int64_t>()[i];
  if (k < 0 && wraps != 0) k += extent;
  return k >= 0 && k < extent ? k : -1;
}

int32_t run(const void* params, const Tensor* in, int, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const Tensor &x = in[0], &indices = in[1], &y = out[0];
  const int32_t axis = static_cast<int32_t>(p.axis < 0 ? p.axis + x.ndim : p.axis);
  const int64_t extent = x.shape[axis], count = has_no_elements(indices) ? 0 : indices.elements();
  for (int64_t i = 0; i < count; ++i) {
    if (index_at(indices, i, extent, p.wraps) < 0) {
      ctx.error =
          p.wraps != 0
              ? "gather: an index is out of range; indices must lie in [-extent, extent) of the axis they look into"
              : "gather: an index is out of range; indices must lie in [0, extent) of the axis they look into";
      return MRT_ERROR_RUN;
    }
  }
  if (has_no_elements(y)) return MRT_OK;
  if (p.reference != 0) {
    move_reference(x, y, nullptr, [&](const int64_t* index) {
      int64_t from[MRT_MAX_RANK];
      for (int32_t d = 0; d < axis; ++d) from[d] = index[d];
      from[axis] = index_at(indices, flat_index(indices, index + axis), extent);
      for (int32_t d = axis + 1; d < x.ndim; ++d) from[d] = index[d - 1 + indices.ndim];
      return flat_index(x, from);
    });
    return MRT_OK;
  }
  const int64_t run = x.extent(axis + 1, x.ndim) * static_cast<int64_t>(x.dtype.bytes());
  const char* from = x.as<char>();
  char* to = y.as<char>();
  parallel_ranges(ctx, x.extent(0, axis) * count, kMoveGrain / run, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / count * extent + index_at(indices, i % count, extent);
      copy_run(to + i * run, from + row * run, static_cast<size_t>(run));
    }
  });
  return MRT_OK;
}

}  // namespace

const Operator kOperator_gather = {&kContract, kPortable, sizeof(Params), prepare, check, run};

}  // namespace mrt
