// gemm_u8s8: y [..., n] = finish(a [..., k] * w [k, n]), a of uint8, w of int8 packed ahead of time; sums are exact.
// The zero point and the scale of a may be known to the run alone.
#include "kernels/checks.h"
#include "kernels/gemm/dense.h"
#include "kernels/gemm/pack.h"
#include "kernels/qgemm/blocked.h"
#include "kernels/qgemm/reference.h"

namespace mrt {
namespace {

constexpr const char* kName = "gemm_u8s8";

constexpr Operand kInputs[] = {{"a", kU8, kAnyRank, kBatched},
                               {"w", kS8, 2, kPacked},
                               {"scale", kF32, 1},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32 | kU8, kAnyRank, kOptional | kResidual | kBatched},
                               {"a_scale", kF32, 0, kOptional},
                               {"a_zero", kU8, 0, kOptional},
                               {"w_zero", kS8, 1, kOptional}};
constexpr Operand kOutputs[] = {{"y", kQOutputs, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("n", 0, kMaxExtent), integer("k", 0, kQMaxDepth),
                                     integer("w_trans", 0, 1, 0).with(kPackingOnly)};
constexpr Contract kContract = {
    kName,           "gemm_u8s8_nr16_v2", kInputs, kOutputs, kAttributes, kEpilogueAttributes, kQOutputAttributes,
    kQSumAttributes, kQInputAttributes};

struct Params {
  const QTileTable* table;  // null: the reference
  QOutput output;
  int64_t n, k, a_zero;
};

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(attr_int(attrs, "n", &p.n));
  MRT_TRY(attr_int(attrs, "k", &p.k));
  MRT_TRY(attr_int(attrs, "a_zero", &p.a_zero));
  MRT_TRY(decode_q_output(attrs, &p.output));
  p.table = kQTile[isa];
  MRT_TRY(decode_q_sum(attrs, p.table, &p.output));
  return Status();
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_dense(kName, in[0], out[0], p.n, p.k));
  MRT_TRY(check_packed(kName, in[1], q_packed_bytes(1, p.k, p.n)));
  MRT_TRY(q_check_zeros(kName, p.k, in, n_in));
  return check_q_operands(kName, p.output, p.n, in, n_in, out[0]);
}

size_t scratch(const void* params, const Tensor*, int, const Tensor*, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  return p.table ? align64(q_product_scratch(1)) * static_cast<size_t>(threads) : 0;
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  if (has_no_elements(out[0])) return MRT_OK;
  const int64_t m = in[0].extent(0, in[0].ndim - 1);
  const QFinishCall finish = q_finish_call(p.output, in, n_in, out[0], p.n);
  if (!p.table) {
    qgemm_reference(finish, m, p.n, p.k, in[0].as<const uint8_t>(), q_a_zero(in, n_in, p.a_zero),
                    in[1].as<const char>(), q_w_zero(in, n_in));
    return MRT_OK;
  }
  QProduct product{};
  product.table = p.table;
  product.m = m;
  product.n = p.n;
  product.taps = 1;
  product.kc = p.k;
  product.a = in[0].as<const uint8_t>();
  product.lda = p.k;
  product.a_zero = q_a_zero(in, n_in, p.a_zero);
  product.w_zero = q_w_zero(in, n_in);
  product.w = in[1].as<const char>();
  product.finish = finish;
  run_q_product(product, ctx, ctx.scratch);
  return MRT_OK;
}

// ---- packing ----

Status pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  DenseWeight w;
  int64_t a_max = 0;
  MRT_TRY(decode_dense(weight, attrs, &w));
  MRT_TRY(attr_int(attrs, "a_max", &a_max));
  MRT_TRY(q_check_depth(kName, 1, w.k));
  *bytes = q_packed_bytes(1, w.k, w.n);
  if (out == nullptr) return Status();
  const QSource source{weight.as<const int8_t>(), w.stride_n, w.n, a_max};
  const auto at = [&](int64_t, int64_t k) { return k * w.stride_k; };
  q_pack_panels(source, q_panel_layout(1, w.k), at, static_cast<char*>(out));
  return Status();
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  return dense_flops(out[0], static_cast<const Params*>(params)->k);
}

}  // namespace

const Operator kOperator_gemm_u8s8 = {&kContract, kQTile.rows, sizeof(Params), prepare, check,
                                      run,        scratch,     flops,          pack};

}  // namespace mrt
