// concat: tensors one behind the other along `axis`; a negative axis counts from the end.
#include "kernels/movement/movement.h"
#include "kernels/movement/reference.h"

namespace mrt {
namespace {

constexpr const char* kName = "concat";

constexpr Operand kInputs[] = {{"x", kWhole, kAnyRank, kBatched | kRepeated}};
constexpr Operand kOutputs[] = {{"y", kLikeFirst, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("axis", -MRT_MAX_RANK, MRT_MAX_RANK - 1, 0)};
constexpr Contract kContract = {kName, "", kInputs, kOutputs, kAttributes};

struct Params {
  int64_t axis;
  int64_t reference;
};

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  Params* p = static_cast<Params*>(params);
  p->reference = isa == Isa::reference ? 1 : 0;
  return attr_int(attrs, "axis", &p->axis);
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int) {
  int32_t axis;
  MRT_TRY(check_axis(kName, static_cast<const Params*>(params)->axis, out[0].ndim, &axis));
  int64_t extent = 0;
  for (int i = 0; i < n_in; ++i) {
    if (in[i].dtype != out[0].dtype) return fail(MRT_ERROR_DTYPE, "%s: the inputs are not all of one type", kName);
    MRT_TRY(check_tensor(kName, "an input", in[i], out[0].ndim));
    for (int32_t d = 0; d < out[0].ndim; ++d) {
      if (d != axis) MRT_TRY(check_extent(kName, "an input", in[i], d, out[0].shape[d]));
    }
    if (__builtin_add_overflow(extent, in[i].shape[axis], &extent)) {
      return fail(MRT_ERROR_SHAPE, "%s: the extents along the axis are too large", kName);
    }
  }
  return check_extent(kName, "y", out[0], axis, extent);
}

void run_reference(const Tensor* in, const Tensor& y, int32_t axis) {
  const size_t size = y.dtype.bytes();
  int64_t index[MRT_MAX_RANK] = {};
  for (int64_t i = 0, n = y.elements(); i < n; ++i) {
    int64_t from[MRT_MAX_RANK];
    std::memcpy(from, index, sizeof(from));
    int input = 0;
    while (from[axis] >= in[input].shape[axis]) from[axis] -= in[input++].shape[axis];
    std::memcpy(y.as<char>() + i * size, in[input].as<char>() + flat_index(in[input], from) * size, size);
    for (int32_t d = y.ndim - 1; d >= 0 && ++index[d] == y.shape[d]; --d) index[d] = 0;
  }
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params* p = static_cast<const Params*>(params);
  const Tensor& y = out[0];
  if (has_no_elements(y)) return MRT_OK;
  const int32_t axis = static_cast<int32_t>(p->axis < 0 ? p->axis + y.ndim : p->axis);
  if (p->reference != 0) {
    run_reference(in, y, axis);
    return MRT_OK;
  }
  const int64_t inner = y.extent(axis + 1, y.ndim) * static_cast<int64_t>(y.dtype.bytes());
  const int64_t row = y.shape[axis] * inner;
  const auto copy = [&](const Tensor& x, char* to, int64_t begin, int64_t end) {
    const int64_t bytes = x.shape[axis] * inner;
    for (int64_t i = begin; i < end; ++i) {
      copy_run(to + i * row, x.as<char>() + i * bytes, static_cast<size_t>(bytes));
    }
  };
  const int64_t outer = y.extent(0, axis);
  char* to = y.as<char>();
  for (int i = 0; i < n_in; ++i) {
    const int64_t bytes = in[i].shape[axis] * inner;
    if (bytes == 0) continue;
    parallel_ranges(ctx, outer, kMoveGrain / bytes, [&](int64_t begin, int64_t end) { copy(in[i], to, begin, end); });
    to += bytes;
  }
  return MRT_OK;
}

bool separable(const void* params, const Tensor* in, int) {
  const int64_t axis = static_cast<const Params*>(params)->axis;
  return axis != 0 && axis != -in[0].ndim;
}

}  // namespace

const Operator kOperator_concat = {&kContract, kPortable, sizeof(Params), prepare, check,
                                   run,        nullptr,   nullptr,        nullptr, separable};

}  // namespace mrt
