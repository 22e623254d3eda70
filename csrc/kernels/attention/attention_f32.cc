// attention_f32: y = softmax(scale q k^T + mask) v, head by head.
//
// q [B, Sq, H, D], k [B, Sk, Hkv, D], v [B, Sk, Hkv, Dv] -> y [B, Sq, H, Dv]; with layout `bhsd` heads come before
// positions in all of them. Hkv divides H: query head h uses key head h / (H / Hkv). The mask is added and broadcast to
// [B, H, Sq, Sk]. A query that sees nothing gives NaN, as torch.softmax does, or with safe 0, as torch's
// scaled_dot_product_attention does.
#include <cinttypes>

#include "kernels/attention/attention_driver.h"

namespace mrt {
namespace {

constexpr const char* kName = "attention_f32";

constexpr Operand kInputs[] = {
    {"q", kF32, 4, kBatched}, {"k", kF32, 4, kBatched}, {"v", kF32, 4, kBatched}, {"mask", kF32, kAnyRank, kOptional}};
constexpr Operand kOutputs[] = {{"y", kF32, 4}};
constexpr Attribute kAttributes[] = {choice("layout", "bshd bhsd")};
constexpr Contract kContract = {kName, "", kInputs, kOutputs, kAttentionAttributes, kAttributes};

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  AttentionParams* p = static_cast<AttentionParams*>(params);
  MRT_TRY(attr_choice(attrs, "layout", &p->bhsd));
  return attention_prepare(attrs, isa, p);
}

AttentionProblem::Strides strides_of(const Tensor& t, bool bhsd) {
  const int64_t outer = t.shape[1], inner = t.shape[2], d = t.shape[3];
  if (bhsd) return {outer * inner * d, d, inner * d};
  return {outer * inner * d, inner * d, d};
}

AttentionProblem problem_of(const AttentionParams& params, const Tensor* in, const Tensor& y) {
  const bool bhsd = params.bhsd != 0;
  const int seq = bhsd ? 2 : 1, head = bhsd ? 1 : 2;
  AttentionProblem p{};
  p.batch = in[0].shape[0];
  p.heads = in[0].shape[head];
  p.kv_heads = in[1].shape[head];
  p.sq = in[0].shape[seq];
  p.sk = in[1].shape[seq];
  p.d = in[0].shape[3];
  p.dv = in[2].shape[3];
  p.q = in[0].as<float>();
  p.k = in[1].as<float>();
  p.v = in[2].as<float>();
  p.y = y.as<float>();
  p.q_strides = strides_of(in[0], bhsd);
  p.k_strides = strides_of(in[1], bhsd);
  p.v_strides = strides_of(in[2], bhsd);
  p.y_strides = strides_of(y, bhsd);
  attention_set(params, &p);
  return p;
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int) {
  const AttentionParams& a = *static_cast<const AttentionParams*>(params);
  const int seq = a.bhsd != 0 ? 2 : 1, head = a.bhsd != 0 ? 1 : 2;
  MRT_TRY(check_extent(kName, "k", in[1], 0, in[0].shape[0]));
  MRT_TRY(check_extent(kName, "k", in[1], 3, in[0].shape[3]));
  const int64_t heads = in[0].shape[head], kv_heads = in[1].shape[head];
  if (kv_heads == 0 ? heads != 0 : heads % kv_heads != 0) {
    return fail(MRT_ERROR_SHAPE, "%s: k has %" PRId64 " heads, expected a divisor of the %" PRId64 " heads of q", kName,
                kv_heads, heads);
  }
  for (int d = 0; d < 3; ++d) MRT_TRY(check_extent(kName, "v", in[2], d, in[1].shape[d]));
  MRT_TRY(check_extent(kName, "y", out[0], 0, in[0].shape[0]));
  MRT_TRY(check_extent(kName, "y", out[0], seq, in[0].shape[seq]));
  MRT_TRY(check_extent(kName, "y", out[0], head, heads));
  MRT_TRY(check_extent(kName, "y", out[0], 3, in[2].shape[3]));
  if (!present(in, n_in, 3) || has_no_elements(out[0])) return Status();
  AttentionProblem p = problem_of(a, in, out[0]);
  return attention_mask(kName, in[3], &p);
}

AttentionProblem masked_problem(const void* params, const Tensor* in, int n_in, const Tensor* out) {
  AttentionProblem p = problem_of(*static_cast<const AttentionParams*>(params), in, out[0]);
  // check has seen this mask.
  if (present(in, n_in, 3)) static_cast<void>(attention_mask(kName, in[3], &p).ok());
  return p;
}

size_t scratch(const void* params, const Tensor* in, int, const Tensor* out, int, int32_t threads) {
  if (has_no_elements(out[0])) return 0;
  const AttentionParams& a = *static_cast<const AttentionParams*>(params);
  return attention_scratch(a, problem_of(a, in, out[0]), threads);
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  if (has_no_elements(out[0])) return MRT_OK;
  return attention_run(*static_cast<const AttentionParams*>(params), masked_problem(params, in, n_in, out), ctx);
}

double flops(const void* params, const Tensor* in, int, const Tensor* out, int) {
  if (has_no_elements(out[0])) return 0;
  return attention_flops(problem_of(*static_cast<const AttentionParams*>(params), in, out[0]));
}

// A mask may have the batch too, or be broadcast over it.
bool separable(const void*, const Tensor* in, int n_in) { return !present(in, n_in, 3); }

}  // namespace

const Operator kOperator_attention_f32 = {
    &kContract, kAttentionF32.rows, sizeof(AttentionParams), prepare, check, run, scratch, flops, nullptr, separable};

}  // namespace mrt
