// gemm_f32h: y [..., n] = epilogue(a [..., k] * w [k, n]) with weights in float16 or bfloat16, each of which is a
// float: what is computed is what gemm_f32 computes of them. A stretch of a panel becomes floats once for each block of
// rows.
#include "kernels/checks.h"
#include "kernels/gemm/dense.h"
#include "kernels/gemm/pack.h"
#include "kernels/gemmq/finish.h"
#include "kernels/gemmq/halves.h"
#include "kernels/gemmq/scales.h"

namespace mrt {
namespace {

constexpr const char* kName = "gemm_f32h";

constexpr Operand kInputs[] = {{"a", kF32, kAnyRank, kBatched},
                               {"w", kF16 | kBF16, 2, kPacked},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32, kAnyRank, kOptional | kResidual | kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("n", 0, kMaxExtent), integer("k", 0, kMaxExtent),
                                     integer("w_trans", 0, 1, 0).with(kPackingOnly),
                                     choice("numbers", "float16 bfloat16")};
constexpr Contract kContract = {kName, "gemm_f32h_nr16_v1", kInputs, kOutputs, kAttributes, kEpilogueAttributes};

struct Params : DenseParams {
  const HalvesTable::Kind* kind;  // null: the reference
  int32_t brain;                  // bfloat16
};

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(prepare_dense(attrs, isa, &p));
  MRT_TRY(attr_choice(attrs, "numbers", &p.brain));
  const HalvesTable* const table = kHalves[isa];
  p.kind = table == nullptr ? nullptr : p.brain ? &table->brain : &table->half;
  return Status();
}

// [panels][k][16], columns that do not exist being zeros.
int64_t packed_bytes(int64_t k, int64_t n) { return checked_mul(checked_mul(panels_of(n), k), kPanel * 2); }

Status pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  DenseWeight p;
  int32_t brain = 0;
  MRT_TRY(decode_dense(weight, attrs, &p));
  MRT_TRY(attr_choice(attrs, "numbers", &brain));
  if (weight.dtype.code != (brain ? MRT_BFLOAT : MRT_FLOAT)) {
    return fail(MRT_ERROR_DTYPE, "%s: the weight's numbers are of another type than the attribute numbers says", kName);
  }
  *bytes = packed_bytes(p.k, p.n);
  if (out == nullptr) return Status();
  const uint16_t* const w = weight.as<const uint16_t>();
  uint16_t* const to = static_cast<uint16_t*>(out);
  std::fill(to, to + *bytes / 2, uint16_t{0});
  for (int64_t j = 0; j < p.n; ++j) {
    uint16_t* const column = to + j / kPanel * p.k * kPanel + j % kPanel;
    for (int64_t k = 0; k < p.k; ++k) column[k * kPanel] = w[k * p.stride_k + j * p.stride_n];
  }
  return Status();
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_dense(kName, in[0], out[0], p.n, p.k));
  return check_packed(kName, in[1], packed_bytes(p.k, p.n));
}

size_t scratch(const void* params, const Tensor*, int, const Tensor*, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  return p.table ? product_scratch(p.table->mr, 1, p.k, p.blocking, true) * static_cast<size_t>(threads) : 0;
}

struct Weights {
  const Params* params;
  const uint16_t* packed;

  const uint16_t* panel(int64_t i) const { return packed + i * params->k * kPanel; }
};

// Product::unpack.
void multiply_packed(const PackedTile& at, const TileCall& tile, int64_t rows) {
  const Weights& w = *static_cast<const Weights*>(at.packed);
  HalvesTile call{};
  call.w = w.panel(at.panel) + at.row * kPanel;
  call.rows = tile.kc;
  call.out = at.scratch;
  call.next = w.params->k * kPanel;
  w.params->kind->tile(call, tile, static_cast<int>(rows));
}

void one_row(const Weights& w, const DenseOperands& o, int64_t panel) {
  const Params& p = *w.params;
  alignas(64) float sums[kPanel];
  HalvesRow call{};
  call.w = w.panel(panel);
  call.rows = p.k;
  call.out = sums;
  call.a = o.a;
  p.kind->row(call);
  finish_panel(p, o, panel, 0, 1, sums);
}

void reference(const Weights& w, const DenseOperands& o) {
  const Params& p = *w.params;
  for (int64_t i = 0; i < o.m; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      double sum = 0.0;
      for (int64_t k = 0; k < p.k; ++k) {
        const uint16_t bits = w.panel(j / kPanel)[k * kPanel + j % kPanel];
        sum +=
            static_cast<double>(o.a[i * p.k + k]) * static_cast<double>(p.brain ? brain_value(bits) : half_value(bits));
      }
      const int64_t at = i * p.n + j;
      o.y[at] =
          epilogue_reference(p.epilogue, sum, o.bias ? o.bias + j : nullptr, o.residual ? o.residual + at : nullptr);
    }
  }
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const Weights weights{&p, in[1].as<const uint16_t>()};
  const DenseOperands o = dense_operands(in, n_in, 2, 3, out[0]);
  if (!p.table) {
    reference(weights, o);
    return MRT_OK;
  }
  if (o.m == 1) {
    const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, p.k * kPanel));
    parallel_ranges(ctx, panels_of(p.n), grain, [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) one_row(weights, o, panel);
    });
    return MRT_OK;
  }
  Product product = dense_product(p, o);
  product.unpack = multiply_packed;
  product.packed = &weights;
  run_product(product, ctx, ctx.scratch);
  return MRT_OK;
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  return dense_flops(out[0], static_cast<const Params*>(params)->k);
}

}  // namespace

const Operator kOperator_gemm_f32h = {&kContract, kTile.rows, sizeof(Params), prepare, check,
                                      run,        scratch,    flops,          pack};

}  // namespace mrt
