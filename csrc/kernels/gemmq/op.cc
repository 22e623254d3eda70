// gemm_f32q: y [..., n] = epilogue(a [..., k] * w [k, n]) with weights of 8 or 4 bits, (q - zero) * scale with a scale
// (and zero point) for each column and group of rows. A stretch of a panel is turned into floats once for each block of
// rows, just before the tiles of gemm_f32 read it: what is read from memory is the packed form, what is computed is
// what gemm_f32 computes.
#include <cinttypes>

#include "kernels/checks.h"
#include "kernels/gemm/blocked.h"
#include "kernels/gemm/pack.h"
#include "kernels/gemmq/unpack.h"

namespace mrt {

#define MRT_KERNEL(isa, name) extern const UnpackTable kUnpack_##isa;
#include "kernels/gemmq/kernels.inc"
#undef MRT_KERNEL

namespace {

constexpr const char* kName = "gemm_f32q";

constexpr Operand kInputs[] = {{"a", kF32, kAnyRank, kBatched},
                               {"w", kS8, 2, kPacked},
                               {"scale", kF32, 2},
                               {"zero", kS8, 2, kOptional},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32, kAnyRank, kOptional | kResidual | kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, kAnyRank}};
constexpr Attribute kAttributes[] = {
    integer("n", 0, kMaxExtent), integer("k", 0, kMaxExtent), integer("w_trans", 0, 1, 0).with(kPackingOnly),
    integer("bits", 4, 8, 8).in_steps_of(4), integer("group", 1, kMaxExtent).with(kDerived)};  // all of k
constexpr Contract kContract = {kName, "gemm_f32q_nr16_v1", kInputs, kOutputs, kAttributes, kEpilogueAttributes};

#define MRT_KERNEL(isa, name) &kUnpack_##isa,
const UnpackTable* const kTables[] = {
#include "kernels/gemmq/kernels.inc"
    nullptr};
#undef MRT_KERNEL

struct Params {
  const TileTable* table;  // null: the reference
  const EpilogueTable* epilogue_table;
  const UnpackTable* unpack;
  Epilogue epilogue;
  Blocking blocking;
  int64_t n, k, bits, group;

  int64_t groups() const { return ceil_div(k, group); }
};

int64_t panel_bytes(int64_t k, int64_t bits) { return checked_mul(bits == 8 ? k : ceil_div(k, 2), kPanel); }

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(attr_int(attrs, "n", &p.n));
  MRT_TRY(attr_int(attrs, "k", &p.k));
  MRT_TRY(attr_int(attrs, "bits", &p.bits));
  p.group = std::max<int64_t>(p.k, 1);
  MRT_TRY(attr_int(attrs, "group", &p.group));
  MRT_TRY(decode_epilogue(attrs, &p.epilogue));
  p.table = tile_table(isa);
  p.unpack = kernel_of(kTables, isa);
  p.epilogue_table = epilogue_table(isa);
  p.blocking = p.table ? p.table->blocking : Blocking();
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
  MRT_TRY(check_packed(kName, in[1], checked_mul(panels_of(p.n), panel_bytes(p.k, p.bits))));
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
  const float* scale;
  const int8_t* zero;
};

void describe(const Weights& w, int64_t panel, UnpackCall* call) {
  const Params& p = *w.params;
  const int64_t column = panel * kPanel;
  call->w = w.packed + panel * panel_bytes(p.k, p.bits);
  call->scale = w.scale + column;
  call->zero = w.zero ? w.zero + column : nullptr;
  call->step = p.n;
  call->columns = std::min(kPanel, p.n - column);
  call->group = p.group;
}

void unpack_stretch(const void* user, int64_t panel, int64_t row, int64_t rows, float* out) {
  const Weights& w = *static_cast<const Weights*>(user);
  UnpackCall call{};
  describe(w, panel, &call);
  call.row = row;
  call.rows = rows;
  call.out = out;
  (w.params->bits == 8 ? w.params->unpack->s8 : w.params->unpack->s4)(call);
}

// What run has of a step.
struct Operands {
  int64_t m;
  const float *a, *bias, *residual;
  float* y;
};

// Rows of y from a few rows of A, one panel: the weights are not stored as floats in between.
void few_rows(const Weights& w, const Operands& o, int64_t panel) {
  const Params& p = *w.params;
  const Epilogue& e = p.epilogue;
  alignas(64) float sums[kFewRowsMost * kPanel];
  RowsCall call{};
  describe(w, panel, &call);
  call.rows = p.k;
  call.lda = p.k;
  call.out = sums;
  const float* const bias = o.bias ? o.bias + panel * kPanel : nullptr;
  call.a = o.a;
  (p.bits == 8 ? p.unpack->few_s8 : p.unpack->few_s4)[o.m](call);
  float* const y = o.y + panel * kPanel;
  const float* const residual = o.residual ? o.residual + panel * kPanel : nullptr;
  for (int64_t i = 0; i < o.m; ++i) {
    for (int64_t j = 0; j < call.columns; ++j) {
      float x = sums[i * kPanel + j] + (bias ? bias[j] : 0.0f);
      if (residual && !e.residual_after) x += residual[i * p.n + j];
      if (e.clamp_only()) {
        x = e.lo > x ? e.lo : x;
        x = e.hi < x ? e.hi : x;
        if (residual && e.residual_after) x += residual[i * p.n + j];
      }
      y[i * p.n + j] = x;
    }
  }
  if (!e.clamp_only())
    p.epilogue_table->apply(e, y, p.n, o.m, call.columns, e.residual_after ? residual : nullptr, p.n);
}

// The weight (k, j), as its definition says.
float element(const Weights& w, int64_t k, int64_t j) {
  const Params& p = *w.params;
  const uint8_t* panel = w.packed + j / kPanel * panel_bytes(p.k, p.bits) + j % kPanel;
  const int64_t at = k / p.group * p.n + j;
  const int q = p.bits == 8 ? static_cast<int8_t>(panel[k * kPanel]) : (panel[k / 2 * kPanel] >> (k % 2 * 4) & 15) - 8;
  return static_cast<float>(q - (w.zero ? w.zero[at] : 0)) * w.scale[at];
}

void reference(const Weights& w, const Operands& o) {
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
  const Weights weights{&p, in[1].as<const uint8_t>(), in[2].as<const float>(),
                        present(in, n_in, 3) ? in[3].as<const int8_t>() : nullptr};
  const Operands o{in[0].extent(0, in[0].ndim - 1), in[0].as<const float>(),
                   present(in, n_in, 4) ? in[4].as<const float>() : nullptr,
                   present(in, n_in, 5) ? in[5].as<const float>() : nullptr, out[0].as<float>()};
  if (!p.table) {
    reference(weights, o);
    return MRT_OK;
  }
  if (o.m > 0 && o.m <= kFewRowsMost) {
    const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, o.m * p.k * kPanel));
    parallel_ranges(ctx, panels_of(p.n), grain, [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel) few_rows(weights, o, panel);
    });
    return MRT_OK;
  }
  Product product{};
  product.table = p.table;
  product.epilogue_table = p.epilogue_table;
  product.epilogue = &p.epilogue;
  product.blocking = p.blocking;
  product.m = o.m;
  product.n = p.n;
  product.taps = 1;
  product.kc = p.k;
  product.a = o.a;
  product.lda = p.k;
  product.unpack = unpack_stretch;
  product.packed = &weights;
  product.c = o.y;
  product.ldc = p.n;
  product.bias = o.bias;
  product.residual = o.residual;
  product.ldr = p.n;
  run_product(product, ctx, ctx.scratch);
  return MRT_OK;
}

// ---- packing ----

struct Packing {
  int64_t k, n, bits;
  bool trans;
  int64_t bytes() const { return checked_mul(panels_of(n), panel_bytes(k, bits)); }
};

Status decode_packing(const Tensor& weight, const Attrs& attrs, Packing* out) {
  int64_t trans = 0;
  MRT_TRY(attr_int(attrs, "w_trans", &trans));
  MRT_TRY(attr_int(attrs, "bits", &out->bits));
  out->trans = trans != 0;
  out->k = weight.shape[out->trans ? 1 : 0];
  out->n = weight.shape[out->trans ? 0 : 1];
  return Status();
}

Status packed_bytes(const Tensor& weight, const Attrs& attrs, size_t* out) {
  Packing p{};
  MRT_TRY(decode_packing(weight, attrs, &p));
  if (p.bytes() < 0) return fail(MRT_ERROR_SHAPE, "%s: the packed weight is too large to address", kName);
  *out = static_cast<size_t>(p.bytes());
  return Status();
}

Status pack(const Tensor& weight, const Attrs& attrs, void* out) {
  Packing p{};
  MRT_TRY(decode_packing(weight, attrs, &p));
  const int8_t* const w = weight.as<const int8_t>();
  uint8_t* const to = static_cast<uint8_t*>(out);
  std::fill(to, to + p.bytes(), p.bits == 8 ? uint8_t{0} : uint8_t{0x88});
  const int64_t step_k = p.trans ? 1 : p.n, step_n = p.trans ? p.k : 1;
  for (int64_t j = 0; j < p.n; ++j) {
    uint8_t* const column = to + j / kPanel * panel_bytes(p.k, p.bits) + j % kPanel;
    for (int64_t k = 0; k < p.k; ++k) {
      const int q = w[k * step_k + j * step_n];
      if (p.bits == 8) {
        column[k * kPanel] = static_cast<uint8_t>(q);
        continue;
      }
      if (q < -8 || q > 7) {
        return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: a weight is %d, which 4 bits do not hold", kName, q);
      }
      uint8_t& both = column[k / 2 * kPanel];
      const int shift = static_cast<int>(k % 2) * 4;
      both = static_cast<uint8_t>((both & ~(15 << shift)) | (q + 8) << shift);
    }
  }
  return Status();
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  return 2.0 * static_cast<double>(out[0].elements()) * static_cast<double>(p.k);
}

}  // namespace

const Operator kOperator_gemm_f32q = {&kContract, kTileKernels, sizeof(Params), prepare,      check,
                                      run,        scratch,      flops,          packed_bytes, pack};

}  // namespace mrt
