// gemm_f32: y [..., n] = epilogue(a [..., k] * w [k, n]) with weights packed ahead of time.
#include "kernels/checks.h"
#include "kernels/gemm/dense.h"
#include "kernels/gemm/pack.h"
#include "kernels/gemm/reference.h"

namespace mrt {
namespace {

constexpr const char* kName = "gemm_f32";

constexpr Operand kInputs[] = {{"a", kF32, kAnyRank, kBatched},
                               {"w", kF32, 2, kPacked},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32, kAnyRank, kOptional | kResidual | kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("n", 0, kMaxExtent), integer("k", 0, kMaxExtent),
                                     integer("w_trans", 0, 1, 0).with(kPackingOnly)};
constexpr Contract kContract = {kName,       "gemm_f32_nr16_v1",  kInputs,       kOutputs,
                                kAttributes, kEpilogueAttributes, kBlockingHints};

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  DenseParams& p = *static_cast<DenseParams*>(out);
  MRT_TRY(prepare_dense(attrs, isa, &p));
  return decode_blocking(attrs, &p.blocking);
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const DenseParams& p = *static_cast<const DenseParams*>(params);
  MRT_TRY(check_dense(kName, in[0], out[0], p.n, p.k));
  return check_packed(kName, in[1], packed_panel_bytes(p.k, p.n));
}

size_t scratch(const void* params, const Tensor*, int, const Tensor*, int, int32_t threads) {
  const DenseParams& p = *static_cast<const DenseParams*>(params);
  return p.table ? product_scratch(p.table->mr, 1, p.k, p.blocking) * static_cast<size_t>(threads) : 0;
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const DenseParams& p = *static_cast<const DenseParams*>(params);
  const DenseOperands o = dense_operands(in, n_in, 2, 3, out[0]);
  const float* w = in[1].as<const float>();
  if (!p.table) {
    gemm_reference(p.epilogue, o.m, p.n, p.k, o.a, p.k, w, o.bias, o.residual, o.y);
    return MRT_OK;
  }
  Product product = dense_product(p, o);
  product.w = w;
  run_product(product, ctx, ctx.scratch);
  return MRT_OK;
}

// ---- packing ----

Status pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  DenseWeight w;
  MRT_TRY(decode_dense(weight, attrs, &w));
  *bytes = packed_panel_bytes(w.k, w.n);
  if (out != nullptr) pack_panels(weight.as<const float>(), w.k, w.n, w.stride_k, w.stride_n, static_cast<float*>(out));
  return Status();
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  return dense_flops(out[0], static_cast<const DenseParams*>(params)->k);
}

}  // namespace

const Operator kOperator_gemm_f32 = {&kContract, kTile.rows, sizeof(DenseParams), prepare, check, run, scratch,
                                     flops,      pack};

}  // namespace mrt
