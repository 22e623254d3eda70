// gemm_f32: y [..., n] = epilogue(a [..., k] * w [k, n]) with weights packed ahead of time.
#include <cinttypes>

#include "kernels/checks.h"
#include "kernels/gemm/blocked.h"
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

struct Params {
  const TileTable* table;  // null: the reference
  const EpilogueTable* epilogue_table;
  Epilogue epilogue;
  Blocking blocking;
  int64_t n, k;
};

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(attr_int(attrs, "n", &p.n));
  MRT_TRY(attr_int(attrs, "k", &p.k));
  MRT_TRY(decode_epilogue(attrs, &p.epilogue));
  p.table = tile_table(isa);
  p.blocking = p.table ? p.table->blocking : Blocking();
  MRT_TRY(decode_blocking(attrs, &p.blocking));
  p.epilogue_table = epilogue_table(isa);
  return Status();
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  const int32_t last = in[0].ndim - 1;
  if (last < 0) return fail(MRT_ERROR_SHAPE, "%s: a is a scalar, expected at least one dimension", kName);
  MRT_TRY(check_extent(kName, "a", in[0], last, p.k));
  if (out[0].ndim != in[0].ndim) {
    return fail(MRT_ERROR_SHAPE, "%s: y has %d dimensions, expected the %d of a", kName, out[0].ndim, in[0].ndim);
  }
  for (int32_t i = 0; i < last; ++i) MRT_TRY(check_extent(kName, "y", out[0], i, in[0].shape[i]));
  MRT_TRY(check_extent(kName, "y", out[0], last, p.n));
  MRT_TRY(check_packed(kName, in[1], packed_panel_bytes(p.k, p.n)));
  return Status();
}

size_t scratch(const void* params, const Tensor*, int, const Tensor*, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  return p.table ? product_scratch(p.table->mr, 1, p.k, p.blocking) * static_cast<size_t>(threads) : 0;
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const int64_t m = in[0].extent(0, in[0].ndim - 1);
  const float* bias = present(in, n_in, 2) ? in[2].as<const float>() : nullptr;
  const float* residual = present(in, n_in, 3) ? in[3].as<const float>() : nullptr;
  const float* a = in[0].as<const float>();
  const float* w = in[1].as<const float>();
  float* y = out[0].as<float>();
  if (!p.table) {
    gemm_reference(p.epilogue, m, p.n, p.k, a, p.k, w, bias, residual, y);
    return MRT_OK;
  }
  Product product{};
  product.table = p.table;
  product.epilogue_table = p.epilogue_table;
  product.epilogue = &p.epilogue;
  product.blocking = p.blocking;
  product.m = m;
  product.n = p.n;
  product.taps = 1;
  product.kc = p.k;
  product.a = a;
  product.lda = p.k;
  product.w = w;
  product.c = y;
  product.ldc = p.n;
  product.bias = bias;
  product.residual = residual;
  product.ldr = p.n;
  run_product(product, ctx, ctx.scratch);
  return MRT_OK;
}

// ---- packing ----

Status decode_packing(const Attrs& attrs, bool* trans) {
  int64_t w_trans;
  MRT_TRY(attr_int(attrs, "w_trans", &w_trans));
  *trans = w_trans != 0;
  return Status();
}

Status packed_bytes(const Tensor& weight, const Attrs& attrs, size_t* out) {
  bool trans;
  MRT_TRY(decode_packing(attrs, &trans));
  const int64_t bytes = packed_panel_bytes(weight.shape[trans ? 1 : 0], weight.shape[trans ? 0 : 1]);
  if (bytes < 0) return fail(MRT_ERROR_SHAPE, "%s: the packed weight is too large to address", kName);
  *out = static_cast<size_t>(bytes);
  return Status();
}

Status pack(const Tensor& weight, const Attrs& attrs, void* out) {
  bool trans;
  MRT_TRY(decode_packing(attrs, &trans));
  const int64_t rows = weight.shape[0], columns = weight.shape[1];
  const float* w = weight.as<const float>();
  if (trans) {
    pack_panels(w, columns, rows, 1, columns, static_cast<float*>(out));
  } else {
    pack_panels(w, rows, columns, columns, 1, static_cast<float*>(out));
  }
  return Status();
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  return 2.0 * static_cast<double>(out[0].elements()) * static_cast<double>(p.k);
}

}  // namespace

const Operator kOperator_gemm_f32 = {&kContract, kTileKernels, sizeof(Params), prepare,      check,
                                     run,        scratch,      flops,          packed_bytes, pack};

}  // namespace mrt
