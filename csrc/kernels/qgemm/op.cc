// gemm_u8s8: y [..., n] = finish(a [..., k] * w [k, n]), a of uint8, w of int8 packed ahead of time; sums are exact.
// The zero point and the scale of a may be known to the run alone.
#include <cinttypes>
#include <cstring>

#include "kernels/checks.h"
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
                               {"residual", kF32, kAnyRank, kOptional | kResidual | kBatched},
                               {"a_scale", kF32, 0, kOptional},
                               {"a_zero", kU8, 0, kOptional},
                               {"w_zero", kS8, 1, kOptional}};
constexpr Operand kOutputs[] = {{"y", kQOutputs, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("n", 0, kMaxExtent), integer("k", 0, kQMaxDepth),
                                     integer("w_trans", 0, 1, 0).with(kPackingOnly)};
constexpr Contract kContract = {kName,
                                "gemm_u8s8_nr16_v2",
                                kInputs,
                                kOutputs,
                                kAttributes,
                                kEpilogueAttributes,
                                kQOutputAttributes,
                                kQInputAttributes};

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
  p.table = q_tile_table(isa);
  return Status();
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  const int32_t last = in[0].ndim - 1;
  if (last < 0) return fail(MRT_ERROR_SHAPE, "%s: a is a scalar, expected at least one dimension", kName);
  MRT_TRY(check_extent(kName, "a", in[0], last, p.k));
  if (out[0].ndim != in[0].ndim) {
    return fail(MRT_ERROR_SHAPE, "%s: y has %d dimensions, expected the %d of a", kName, out[0].ndim, in[0].ndim);
  }
  for (int32_t i = 0; i < last; ++i) MRT_TRY(check_extent(kName, "y", out[0], i, in[0].shape[i]));
  MRT_TRY(check_extent(kName, "y", out[0], last, p.n));
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

struct Packing {
  bool trans;
  int64_t k, n, a_max;
};

Status decode_packing(const Tensor& weight, const Attrs& attrs, Packing* out) {
  int64_t trans;
  MRT_TRY(attr_int(attrs, "w_trans", &trans));
  MRT_TRY(attr_int(attrs, "a_max", &out->a_max));
  out->trans = trans != 0;
  out->k = weight.shape[out->trans ? 1 : 0];
  out->n = weight.shape[out->trans ? 0 : 1];
  return q_check_depth(kName, 1, out->k);
}

Status packed_bytes(const Tensor& weight, const Attrs& attrs, size_t* out) {
  Packing p;
  MRT_TRY(decode_packing(weight, attrs, &p));
  const int64_t bytes = q_packed_bytes(1, p.k, p.n);
  if (bytes < 0) return fail(MRT_ERROR_SHAPE, "%s: the packed weight is too large to address", kName);
  *out = static_cast<size_t>(bytes);
  return Status();
}

Status pack(const Tensor& weight, const Attrs& attrs, void* out) {
  Packing p;
  MRT_TRY(decode_packing(weight, attrs, &p));
  const QSource source{weight.as<const int8_t>(), p.trans ? p.k : 1, p.n, p.a_max};
  const int64_t step = p.trans ? 1 : p.n;
  q_pack_panels(source, q_panel_layout(1, p.k), [=](int64_t, int64_t k) { return k * step; }, static_cast<char*>(out));
  return Status();
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  return 2.0 * element_count(out[0]) * static_cast<double>(p.k);
}

}  // namespace

const Operator kOperator_gemm_u8s8 = {&kContract, kQTileKernels, sizeof(Params), prepare,      check,
                                      run,        scratch,       flops,          packed_bytes, pack};

}  // namespace mrt
