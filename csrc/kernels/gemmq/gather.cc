// gather_f32q: y [..., k] = columns of w [k, n], one for each index, (q - zero) * scale in floats: rows of an embedding
// whose table is also the weight of a product, so that both read the same bytes. A negative index counts from the end
// where it `wraps`; an index that does not exist is MRT_ERROR_RUN, and nothing is read for it.
#include <algorithm>

#include "kernels/checks.h"
#include "kernels/gemm/pack.h"
#include "kernels/gemmq/packing.h"
#include "kernels/gemmq/scales.h"

namespace mrt {
namespace {

constexpr const char* kName = "gather_f32q";

constexpr Operand kInputs[] = {
    {"indices", kS32 | kS64, kAnyRank}, {"w", kS8, 2, kPacked}, {"scale", kF32 | kF16, 2}, {"zero", kS8, 2, kOptional}};
constexpr Operand kOutputs[] = {{"y", kF32, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("n", 0, kMaxExtent),
                                     integer("k", 0, kMaxExtent),
                                     integer("w_trans", 0, 1, 0).with(kPackingOnly),
                                     integer("bits", 4, 8, 8).in_steps_of(4),
                                     integer("group", 1, kMaxExtent).with(kDerived),  // all of k
                                     integer("wraps", 0, 1, 1)};
constexpr Contract kContract = {kName, "gemm_f32q_nr16_v1", kInputs, kOutputs, kAttributes};

constexpr int64_t kGrain = 4096;  // numbers that one piece of parallel work gives at least

struct Params {
  int64_t n, k, bits, group, wraps;

  int64_t groups() const { return ceil_div(k, group); }
};

Status prepare(const Attrs& attrs, Isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(attr_int(attrs, "n", &p.n));
  MRT_TRY(attr_int(attrs, "k", &p.k));
  MRT_TRY(attr_int(attrs, "bits", &p.bits));
  MRT_TRY(attr_int(attrs, "wraps", &p.wraps));
  p.group = std::max<int64_t>(p.k, 1);
  return attr_int(attrs, "group", &p.group);
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  const Tensor &indices = in[0], &y = out[0];
  MRT_TRY(check_tensor(kName, "y", y, indices.ndim + 1));
  for (int32_t d = 0; d < indices.ndim; ++d) MRT_TRY(check_extent(kName, "y", y, d, indices.shape[d]));
  MRT_TRY(check_extent(kName, "y", y, indices.ndim, p.k));
  MRT_TRY(check_packed(kName, in[1], gemmq_packed_bytes(p.k, p.n, p.bits)));
  MRT_TRY(check_extent(kName, "scale", in[2], 0, p.groups()));
  MRT_TRY(check_extent(kName, "scale", in[2], 1, p.n));
  if (present(in, n_in, 3)) MRT_TRY(check_same_shape(kName, "zero", in[3], in[2]));
  return Status();
}

// The index number i, counted from the start; -1 if it does not exist.
int64_t index_at(const Tensor& indices, int64_t i, const Params& p) {
  int64_t j = indices.dtype.bits == 32 ? indices.as<int32_t>()[i] : indices.as<int64_t>()[i];
  if (j < 0 && p.wraps != 0) j += p.n;
  return j >= 0 && j < p.n ? j : -1;
}

void column(const Params& p, const uint8_t* packed, const Scales& scale, const int8_t* zero, int64_t j, float* y) {
  const uint8_t* const from = packed + j / kPanel * gemmq_panel_bytes(p.k, p.bits) + j % kPanel;
  for (int64_t k = 0, g = j; k < p.k; g += p.n) {
    const int64_t end = std::min(k + p.group, p.k);
    const int origin = zero ? zero[g] : 0;
    const float factor = scale[g];
    for (; k < end; ++k) y[k] = static_cast<float>(gemmq_number(from, k, p.bits) - origin) * factor;
  }
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const Tensor& indices = in[0];
  const int64_t count = has_no_elements(indices) ? 0 : indices.elements();
  for (int64_t i = 0; i < count; ++i) {
    if (index_at(indices, i, p) < 0) {
      ctx.error = p.wraps != 0 ? "gather_f32q: an index is out of range; indices must lie in [-n, n)"
                               : "gather_f32q: an index is out of range; indices must lie in [0, n)";
      return MRT_ERROR_RUN;
    }
  }
  if (has_no_elements(out[0])) return MRT_OK;
  const auto* const packed = in[1].as<const uint8_t>();
  const Scales scale = Scales::of(in[2]);
  const int8_t* const zero = present(in, n_in, 3) ? in[3].as<const int8_t>() : nullptr;
  parallel_ranges(ctx, count, std::max<int64_t>(1, kGrain / p.k), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      column(p, packed, scale, zero, index_at(indices, i, p), out[0].as<float>() + i * p.k);
    }
  });
  return MRT_OK;
}

}  // namespace

const Operator kOperator_gather_f32q = {&kContract, kPortable, sizeof(Params), prepare,   check,
                                        run,        nullptr,   nullptr,        gemmq_pack};

}  // namespace mrt
