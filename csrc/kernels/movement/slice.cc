// slice: y[i_0, ...] = x[starts_0 + i_0 * steps_0, ...]; extents are y's, steps may be negative, a negative start
// counts from the end.
#include <cinttypes>

#include "kernels/movement/movement.h"
#include "kernels/movement/reference.h"

namespace mrt {
namespace {

constexpr const char* kName = "slice";

constexpr Operand kInputs[] = {{"x", kWhole, kAnyRank}};
constexpr Operand kOutputs[] = {{"y", kLikeFirst, kAnyRank}};
constexpr Attribute kAttributes[] = {integers("starts", MRT_MAX_RANK, -kNoBound, kNoBound).with(kListed),
                                     integers("steps", MRT_MAX_RANK, -kNoBound, kNoBound, 1).with(kListed)};
constexpr Contract kContract = {kName, "", kInputs, kOutputs, kAttributes};

struct Params {
  int64_t starts[MRT_MAX_RANK], steps[MRT_MAX_RANK];
  int32_t rank;
  int32_t reference;
};

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  Params* p = static_cast<Params*>(params);
  p->reference = isa == Isa::reference ? 1 : 0;
  MRT_TRY(attr_list(attrs, "starts", p->starts, &p->rank));
  int32_t n;
  MRT_TRY(attr_list(attrs, "steps", p->steps, &n));
  if (n == p->rank) return Status();
  if (n >= 0) {
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute 'steps' has %d numbers, expected the %d of 'starts'", kName,
                n, p->rank);
  }
  for (int32_t d = 0; d < p->rank; ++d) p->steps[d] = 1;
  return Status();
}

int64_t start_of(const Params& p, const Tensor& x, int32_t d) {
  return p.starts[d] < 0 ? p.starts[d] + x.shape[d] : p.starts[d];
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_tensor(kName, "x", in[0], p.rank));
  MRT_TRY(check_tensor(kName, "y", out[0], p.rank));
  if (has_no_elements(out[0])) return Status();
  for (int32_t d = 0; d < p.rank; ++d) {
    const int64_t extent = in[0].shape[d], first = start_of(p, in[0], d);
    int64_t last;
    const bool overflow =
        __builtin_mul_overflow(out[0].shape[d] - 1, p.steps[d], &last) || __builtin_add_overflow(last, first, &last);
    if (overflow || first < 0 || first >= extent || last < 0 || last >= extent) {
      return fail(MRT_ERROR_SHAPE,
                  "%s: %" PRId64 " elements from %" PRId64 " in steps of %" PRId64
                  " leave dimension %d of x, which has %" PRId64,
                  kName, out[0].shape[d], first, p.steps[d], d, extent);
    }
  }
  return Status();
}

// Trailing dimensions that are taken whole, and the contiguous one before them, are one run; the others are kept,
// outermost first. *first is the byte that y starts at.
StridedCopy runs_of(const Params& p, const Tensor& x, const Tensor& y, int64_t* first) {
  StridedCopy reversed{}, c{};
  c.run = static_cast<int64_t>(y.dtype.bytes());
  int64_t stride = c.run;
  bool contiguous = true;
  *first = 0;
  for (int32_t d = p.rank - 1; d >= 0; stride *= x.shape[d--]) {
    *first += start_of(p, x, d) * stride;
    if (contiguous && (p.steps[d] == 1 || y.shape[d] == 1)) {
      c.run *= y.shape[d];
      contiguous = y.shape[d] == x.shape[d];
    } else {
      contiguous = false;
      if (y.shape[d] == 1) continue;
      reversed.extent[c.rank] = y.shape[d];
      reversed.x_stride[c.rank++] = p.steps[d] * stride;
    }
  }
  for (int32_t d = 0; d < c.rank; ++d) {
    c.extent[d] = reversed.extent[c.rank - 1 - d];
    c.x_stride[d] = reversed.x_stride[c.rank - 1 - d];
  }
  return c;
}

int32_t run(const void* params, const Tensor* in, int, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const Tensor &x = in[0], &y = out[0];
  if (has_no_elements(y)) return MRT_OK;
  if (p.reference != 0) {
    move_reference(x, y, nullptr, [&](const int64_t* index) {
      int64_t from[MRT_MAX_RANK];
      for (int32_t d = 0; d < p.rank; ++d) from[d] = start_of(p, x, d) + index[d] * p.steps[d];
      return flat_index(x, from);
    });
    return MRT_OK;
  }
  int64_t first;
  const StridedCopy c = runs_of(p, x, y, &first);
  copy_strided(c, x.as<char>() + first, y.as<char>(), ctx);
  return MRT_OK;
}

}  // namespace

const Operator kOperator_slice = {&kContract, kPortable, sizeof(Params), prepare, check, run};

}  // namespace mrt
