// qkv_attention_f32: attention over the result of one joint projection, qkv [B, S, 3, H, D] -> y [B, S, H, D].
//
// The mask is broadcast to [B, H, S, S]; causal 1 and 2 are the same here.
#include "kernels/attention/attention_driver.h"

namespace mrt {
namespace {

constexpr const char* kName = "qkv_attention_f32";

constexpr Operand kInputs[] = {{"qkv", kF32, 5, kBatched}, {"mask", kF32, kAnyRank, kOptional}};
constexpr Operand kOutputs[] = {{"y", kF32, 4}};
constexpr Contract kContract = {kName, "", kInputs, kOutputs, kAttentionAttributes};

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  return attention_prepare(attrs, isa, static_cast<AttentionParams*>(params));
}

AttentionProblem problem_of(const AttentionParams& params, const Tensor& qkv, const Tensor& y) {
  const int64_t s = qkv.shape[1], h = qkv.shape[3], d = qkv.shape[4];
  AttentionProblem p{};
  p.batch = qkv.shape[0];
  p.heads = p.kv_heads = h;
  p.sq = p.sk = s;
  p.d = p.dv = d;
  p.q = qkv.as<float>();
  p.k = p.q == nullptr ? nullptr : p.q + h * d;
  p.v = p.q == nullptr ? nullptr : p.q + 2 * h * d;
  p.y = y.as<float>();
  p.q_strides = p.k_strides = p.v_strides = {s * 3 * h * d, 3 * h * d, d};
  p.y_strides = {s * h * d, h * d, d};
  attention_set(params, &p);
  return p;
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int) {
  MRT_TRY(check_extent(kName, "qkv", in[0], 2, 3));
  MRT_TRY(check_extent(kName, "y", out[0], 0, in[0].shape[0]));
  MRT_TRY(check_extent(kName, "y", out[0], 1, in[0].shape[1]));
  MRT_TRY(check_extent(kName, "y", out[0], 2, in[0].shape[3]));
  MRT_TRY(check_extent(kName, "y", out[0], 3, in[0].shape[4]));
  if (!present(in, n_in, 1) || has_no_elements(out[0])) return Status();
  AttentionProblem p = problem_of(*static_cast<const AttentionParams*>(params), in[0], out[0]);
  return attention_mask(kName, in[1], &p);
}

size_t scratch(const void* params, const Tensor* in, int, const Tensor* out, int, int32_t threads) {
  if (has_no_elements(out[0])) return 0;
  const AttentionParams& a = *static_cast<const AttentionParams*>(params);
  return attention_scratch(a, problem_of(a, in[0], out[0]), threads);
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  if (has_no_elements(out[0])) return MRT_OK;
  const AttentionParams& a = *static_cast<const AttentionParams*>(params);
  AttentionProblem p = problem_of(a, in[0], out[0]);
  // check has seen this mask.
  if (present(in, n_in, 1)) static_cast<void>(attention_mask(kName, in[1], &p).ok());
  return attention_run(a, p, ctx);
}

double flops(const void* params, const Tensor* in, int, const Tensor* out, int) {
  if (has_no_elements(out[0])) return 0;
  return attention_flops(problem_of(*static_cast<const AttentionParams*>(params), in[0], out[0]));
}

// A mask may have the batch too, or be broadcast over it.
bool separable(const void*, const Tensor* in, int n_in) { return !present(in, n_in, 1); }

}  // namespace

const Operator kOperator_qkv_attention_f32 = {
    &kContract, kAttentionF32.rows, sizeof(AttentionParams), prepare, check, run, scratch, flops, nullptr, separable};

}  // namespace mrt
