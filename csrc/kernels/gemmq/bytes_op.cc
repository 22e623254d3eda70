// gemm_s8q4: gemm_f32q of weights of 4 bits, with activations that each run rounds to 8 bits in blocks of 32 of a row
// (bytes.h): sums within a block are exact, and the weights are read as they are packed, the same bytes.
#include <cfloat>

#include "kernels/checks.h"
#include "kernels/gemmq/bytes.h"
#include "kernels/gemmq/finish.h"
#include "kernels/gemmq/packing.h"

namespace mrt {
namespace {

constexpr const char* kName = "gemm_s8q4";

constexpr Operand kInputs[] = {{"a", kF32, kAnyRank, kBatched},
                               {"w", kS8, 2, kPacked},
                               {"scale", kF32 | kF16, 2},
                               {"zero", kS8, 2, kOptional},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32, kAnyRank, kOptional | kResidual | kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("n", 0, kMaxExtent), integer("k", 0, kMaxExtent),
                                     integer("w_trans", 0, 1, 0).with(kPackingOnly), integer("bits", 4, 4, 4),
                                     integer("group", 1, kMaxExtent).with(kDerived)};  // all of k
constexpr Contract kContract = {kName, "gemm_f32q_nr16_v1", kInputs, kOutputs, kAttributes, kEpilogueAttributes};

constexpr int64_t kRowsAtOnce = 128;  // of which the bytes lie in scratch

struct Params : DenseParams {
  const BytesTable* bytes;  // null: the reference
  int64_t group;

  int64_t blocks() const { return ceil_div(k, kByteBlock); }
  size_t row_bytes() const { return static_cast<size_t>(blocks()) * (kByteBlock + sizeof(BlockFactors)); }
};

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(prepare_dense(attrs, isa, &p));
  p.bytes = kBytes[isa];
  p.group = std::max<int64_t>(p.k, 1);
  MRT_TRY(attr_int(attrs, "group", &p.group));
  int64_t bits = 0;
  MRT_TRY(attr_int(attrs, "bits", &bits));
  if (p.group < p.k && p.group % kByteBlock != 0) {
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: group is %lld, expected a multiple of %lld, or all of k", kName,
                static_cast<long long>(p.group), static_cast<long long>(kByteBlock));
  }
  return Status();
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_dense(kName, in[0], out[0], p.n, p.k));
  MRT_TRY(check_packed(kName, in[1], gemmq_packed_bytes(p.k, p.n, 4)));
  MRT_TRY(check_extent(kName, "scale", in[2], 0, ceil_div(p.k, p.group)));
  MRT_TRY(check_extent(kName, "scale", in[2], 1, p.n));
  if (present(in, n_in, 3)) MRT_TRY(check_same_shape(kName, "zero", in[3], in[2]));
  return Status();
}

// Rows that lie in scratch for so many of a: those that are too many for rows of four are zeros.
int64_t padded(int64_t rows) { return ceil_div(rows, kByteRows) * kByteRows; }

// The bytes of so many rows, then their factors.
ByteRow rows_in(const Params& p, void* scratch, int64_t rows) {
  int8_t* const bytes = static_cast<int8_t*>(scratch);
  return {bytes, reinterpret_cast<BlockFactors*>(bytes + rows * p.blocks() * kByteBlock)};
}

size_t scratch(const void* params, const Tensor* in, int, const Tensor* out, int, int32_t) {
  const Params& p = *static_cast<const Params*>(params);
  if (has_no_elements(out[0]) || p.k == 0) return 0;
  return static_cast<size_t>(padded(std::min(kRowsAtOnce, in[0].extent(0, in[0].ndim - 1)))) * p.row_bytes();
}

// What a step's weights are.
struct Weights {
  const uint8_t* packed;
  Scales scale;
  const int8_t* zero;
};

ByteRow quantized(const Params& p, const float* a, int64_t rows, KernelContext& ctx) {
  const ByteRow all = rows_in(p, ctx.scratch, padded(rows));
  const auto at = [&](int64_t i) {
    return ByteRow{all.bytes + i * p.blocks() * kByteBlock, all.factors + i * p.blocks()};
  };
  parallel_ranges(ctx, rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, p.k)), [&](int64_t i, int64_t end) {
    for (; i < end; ++i) p.bytes->quantize(a + i * p.k, p.k, at(i));
  });
  const ByteRow behind = at(rows);
  std::fill(behind.bytes, at(padded(rows)).bytes, int8_t{0});
  std::fill(behind.factors, at(padded(rows)).factors, BlockFactors{});
  return all;
}

// Rows [row, row + rows), of which `bytes` has the bytes, and panels [panel, end).
void panel_rows(const Params& p, const Weights& w, const DenseOperands& o, const ByteRow& bytes, int64_t row,
                int64_t rows, int64_t panel, int64_t end) {
  alignas(64) float sums[std::max(kByteRows, kBytePanels) * kPanel];
  ByteRowsCall call{};
  call.step = p.n;
  call.group = p.group;
  call.rows = p.k;
  call.out = sums;
  call.bytes_apart = p.blocks() * kByteBlock;
  call.factors_apart = p.blocks();
  for (int64_t panels = 1; panel < end; panel += panels) {
    const int64_t column = panel * kPanel;
    panels = p.bytes->panels && rows == 1 && end - panel >= kBytePanels && p.n - column >= kBytePanels * kPanel
                 ? kBytePanels
                 : 1;
    call.w = w.packed + panel * gemmq_panel_bytes(p.k, 4);
    call.scale = w.scale.from(column);
    call.zero = w.zero ? w.zero + column : nullptr;
    call.columns = std::min(kPanel, p.n - column);
    for (int64_t i = 0; i < rows; i += kByteRows) {
      const int64_t count = std::min(kByteRows, rows - i);
      call.first = {bytes.bytes + i * call.bytes_apart, bytes.factors + i * call.factors_apart};
      (panels > 1 ? p.bytes->panels : count == 1 ? p.bytes->one : p.bytes->four)(call);
      for (int64_t j = 0; j < panels; ++j) finish_panel(p, o, panel + j, row + i, count, sums + j * kPanel);
    }
  }
}

// ---- the definition ----

float block_sum(const Params& p, const Weights& w, const ByteRow& row, int64_t b, int64_t j) {
  const uint8_t* const column = w.packed + j / kPanel * gemmq_panel_bytes(p.k, 4) + j % kPanel;
  const int64_t at = b * kByteBlock / p.group * p.n + j;
  const int zero = w.zero ? w.zero[at] : 0;
  int sum = 0;
  for (int64_t k = b * kByteBlock; k < std::min(p.k, (b + 1) * kByteBlock); ++k) {
    sum += (gemmq_number(column, k, 4) - zero) * row.bytes[k];
  }
  return static_cast<float>(sum) * (w.scale[at] * row.factors[b].scale);
}

void reference(const Params& p, const Weights& w, const DenseOperands& o, void* scratch) {
  const ByteRow row = rows_in(p, scratch, 1);
  for (int64_t i = 0; i < o.m; ++i) {
    quantize_row_reference(o.a + i * p.k, p.k, row);
    for (int64_t j = 0; j < p.n; ++j) {
      float sum = 0.0f;
      for (int64_t b = 0; b < p.blocks(); ++b) sum += block_sum(p, w, row, b, j);
      const int64_t at = i * p.n + j;
      o.y[at] = epilogue_reference(p.epilogue, static_cast<double>(sum), o.bias ? o.bias + j : nullptr,
                                   o.residual ? o.residual + at : nullptr);
    }
  }
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  if (has_no_elements(out[0])) return MRT_OK;
  const Weights weights{in[1].as<const uint8_t>(), Scales::of(in[2]),
                        present(in, n_in, 3) ? in[3].as<const int8_t>() : nullptr};
  const DenseOperands o = dense_operands(in, n_in, 4, 5, out[0]);
  if (!p.bytes) {
    reference(p, weights, o, ctx.scratch);
    return MRT_OK;
  }
  for (int64_t row = 0; row < o.m; row += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, o.m - row);
    const ByteRow bytes = quantized(p, o.a + row * p.k, rows, ctx);
    const int64_t several = ceil_div(panels_of(p.n), kBytePanels);
    const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, rows * p.k * kPanel));
    parallel_ranges(ctx, several, grain, [&](int64_t i, int64_t end) {
      panel_rows(p, weights, o, bytes, row, rows, i * kBytePanels, std::min(end * kBytePanels, panels_of(p.n)));
    });
  }
  return MRT_OK;
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  return dense_flops(out[0], static_cast<const Params*>(params)->k);
}

}  // namespace

void quantize_row_reference(const float* x, int64_t k, const ByteRow& to) {
  for (int64_t b = 0; b * kByteBlock < k; ++b) {
    const int64_t begin = b * kByteBlock, end = std::min(k, begin + kByteBlock);
    float top = 0.0f;
    bool finite = true;
    for (int64_t i = begin; i < end; ++i) {
      finite = finite && std::isfinite(x[i]);
      top = std::max(top, std::fabs(x[i]));
    }
    const float scale = top / 127.0f;
    int sum = 0;
    for (int64_t i = begin; i < end; ++i) {
      const float q = finite && scale > 0.0f ? std::nearbyintf(x[i] / scale) : 0.0f;
      to.bytes[i] = static_cast<int8_t>(std::min(127.0f, std::max(-127.0f, q)));
      sum += to.bytes[i];
    }
    to.factors[b] = {finite ? scale : std::nanf(""), static_cast<float>(sum)};
  }
}

const Operator kOperator_gemm_s8q4 = {&kContract, kBytes.rows, sizeof(Params), prepare,   check,
                                      run,        scratch,     flops,          gemmq_pack};

}  // namespace mrt
