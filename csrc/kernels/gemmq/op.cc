// gemm_f32q: y [..., n] = epilogue(a [..., k] * w [k, n]) with weights of 8 or 4 bits, (q - zero) * scale with a scale
// (and zero point) for each column and group of rows. A stretch of a panel is turned into floats once for each block of
// rows, just before the tiles of gemm_f32 read it: what is read from memory is the packed form, what is computed is
// what gemm_f32 computes.
#include "kernels/checks.h"
#include "kernels/gemm/dense.h"
#include "kernels/gemmq/finish.h"
#include "kernels/gemmq/packing.h"
#include "kernels/gemmq/unpack.h"

namespace mrt {

namespace {

constexpr const char* kName = "gemm_f32q";

constexpr Operand kInputs[] = {{"a", kF32, kAnyRank, kBatched},
                               {"w", kS8, 2, kPacked},
                               {"scale", kF32 | kF16, 2},
                               {"zero", kS8, 2, kOptional},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32, kAnyRank, kOptional | kResidual | kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, kAnyRank}};
constexpr Attribute kAttributes[] = {
    integer("n", 0, kMaxExtent), integer("k", 0, kMaxExtent), integer("w_trans", 0, 1, 0).with(kPackingOnly),
    integer("bits", 4, 8, 8).in_steps_of(4), integer("group", 1, kMaxExtent).with(kDerived)};  // all of k
constexpr Contract kContract = {kName, "gemm_f32q_nr16_v1", kInputs, kOutputs, kAttributes, kEpilogueAttributes};

struct Params : DenseParams {
  const UnpackTable* unpack;
  int64_t bits, group;

  int64_t groups() const { return ceil_div(k, group); }
  auto few() const { return bits == 8 ? unpack->few_s8 : unpack->few_s4; }
  // Whether tiles read weights as they are: the rows in a byte share their scale.
  bool decodes() const { return bits == 4 && (group >= k || (group >= kLeastGroup && group % 2 == 0)); }
};

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(prepare_dense(attrs, isa, &p));
  p.unpack = kUnpack[isa];
  MRT_TRY(attr_int(attrs, "bits", &p.bits));
  p.group = std::max<int64_t>(p.k, 1);
  return attr_int(attrs, "group", &p.group);
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_dense(kName, in[0], out[0], p.n, p.k));
  MRT_TRY(check_packed(kName, in[1], gemmq_packed_bytes(p.k, p.n, p.bits)));
  MRT_TRY(check_extent(kName, "scale", in[2], 0, p.groups()));
  MRT_TRY(check_extent(kName, "scale", in[2], 1, p.n));
  if (present(in, n_in, 3)) MRT_TRY(check_same_shape(kName, "zero", in[3], in[2]));
  return Status();
}

size_t scratch(const void* params, const Tensor*, int, const Tensor*, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  return p.table ? product_scratch(p.table->mr, 1, p.k, p.blocking, true) * static_cast<size_t>(threads) : 0;
}

// What a panel's unpacking needs to know of the step.
struct Weights {
  const Params* params;
  const uint8_t* packed;
  Scales scale;
  const int8_t* zero;
};

void describe(const Weights& w, int64_t panel, UnpackCall* call) {
  const Params& p = *w.params;
  const int64_t column = panel * kPanel;
  call->w = w.packed + panel * gemmq_panel_bytes(p.k, p.bits);
  call->scale = w.scale.from(column);
  call->zero = w.zero ? w.zero + column : nullptr;
  call->step = p.n;
  call->columns = std::min(kPanel, p.n - column);
  call->group = p.group;
}

// Product::unpack.
void multiply_packed(const PackedTile& at, const TileCall& tile, int64_t rows) {
  const Weights& w = *static_cast<const Weights*>(at.packed);
  const Params& p = *w.params;
  DecodedTile call{};
  describe(w, at.panel, &call);
  call.row = at.row;
  call.rows = tile.kc;
  call.out = at.scratch;
  const bool narrow = !p.unpack->factors && tile.n <= kPanel / 2;  // which gemm_f32 adds in another order
  if (!p.decodes() || (at.row | tile.kc) % 2 != 0 || narrow || !p.unpack->tile_s4[rows]) {
    (p.bits == 8 ? p.unpack->s8 : p.unpack->s4)(call);
    p.table->tile[rows](tile);
    return;
  }
  const int64_t bytes = gemmq_panel_bytes(p.k, p.bits);
  call.next = at.first ? at.panels * bytes : 0;
  call.panel_apart = (at.panels - 1) * bytes;
  call.factors_apart = (at.panels - 1) * 2 * kPanel;
  for (int64_t i = 0; at.first && p.unpack->factors && i < at.panels; ++i) {
    UnpackCall panel = call;
    describe(w, at.panel + i, &panel);
    panel.out += i * 2 * kPanel;
    p.unpack->factors(panel);
  }
  p.unpack->tile_s4[rows](call, tile, static_cast<int>(rows));
}

// Rows of y from a few rows of A, one panel: the weights are not stored as floats in between.
void few_rows(const Weights& w, const DenseOperands& o, int64_t panel) {
  const Params& p = *w.params;
  alignas(64) float sums[kMaxFewRows * kPanel];
  RowsCall call{};
  describe(w, panel, &call);
  call.rows = p.k;
  call.lda = p.k;
  call.out = sums;
  call.a = o.a;
  call.rows_of_a = o.m;
  p.few()[o.m](call);
  finish_panel(p, o, panel, 0, o.m, sums);
}

// The weight (k, j), as its definition says.
float element(const Weights& w, int64_t k, int64_t j) {
  const Params& p = *w.params;
  const uint8_t* const column = w.packed + j / kPanel * gemmq_panel_bytes(p.k, p.bits) + j % kPanel;
  const int64_t at = k / p.group * p.n + j;
  const int q = gemmq_number(column, k, p.bits);
  return static_cast<float>(q - (w.zero ? w.zero[at] : 0)) * w.scale[at];
}

void reference(const Weights& w, const DenseOperands& o) {
  const Params& p = *w.params;
  for (int64_t i = 0; i < o.m; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      double sum = 0.0;
      for (int64_t k = 0; k < p.k; ++k) {
        sum += static_cast<double>(o.a[i * p.k + k]) * static_cast<double>(element(w, k, j));
      }
      const int64_t at = i * p.n + j;
      o.y[at] =
          epilogue_reference(p.epilogue, sum, o.bias ? o.bias + j : nullptr, o.residual ? o.residual + at : nullptr);
    }
  }
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const Weights weights{&p, in[1].as<const uint8_t>(), Scales::of(in[2]),
                        present(in, n_in, 3) ? in[3].as<const int8_t>() : nullptr};
  const DenseOperands o = dense_operands(in, n_in, 4, 5, out[0]);
  if (!p.table) {
    reference(weights, o);
    return MRT_OK;
  }
  if (o.m <= kMaxFewRows && p.few()[o.m]) {
    const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, o.m * p.k * kPanel));
    parallel_ranges(ctx, panels_of(p.n), grain, [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) few_rows(weights, o, panel);
    });
    return MRT_OK;
  }
  Product product = dense_product(p, o);
  product.unpack = multiply_packed;
  product.unpack_each = p.unpack->factors && p.decodes() && p.k % 2 == 0;
  product.packed = &weights;
  run_product(product, ctx, ctx.scratch);
  return MRT_OK;
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  return dense_flops(out[0], static_cast<const Params*>(params)->k);
}

}  // namespace

const Operator kOperator_gemm_f32q = {&kContract, kTile.rows, sizeof(Params), prepare,   check,
                                      run,        scratch,    flops,          gemmq_pack};

}  // namespace mrt
