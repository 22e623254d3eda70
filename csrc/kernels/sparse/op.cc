// gemm_f32_sparse: y [..., n] = epilogue(a [..., k] * w [k, n]) with weights of which only those that are not zero are
// stored (packing.h); tiles.h is how. conv2d_f32_sparse: a convolution over NHWC as such a product, whose rows are
// gathered from the image, a block of the depth of eight pixels at a time, just before they are transposed.
#include <cmath>
#include <limits>

#include "kernels/checks.h"
#include "kernels/conv2d/geometry.h"
#include "kernels/conv2d/rows.h"
#include "kernels/gemm/dense.h"
#include "kernels/gemm/pack.h"
#include "kernels/sparse/multiply.h"
#include "kernels/sparse/pack.h"
#include "kernels/sparse/tiles.h"

namespace mrt {
namespace {

constexpr const char *kName = "gemm_f32_sparse", *kConvName = "conv2d_f32_sparse";

constexpr Operand kInputs[] = {{"a", kF32, kAnyRank, kBatched},
                               {"w", kF32, 2, kPacked},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32, kAnyRank, kOptional | kResidual | kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("n", 0, kMaxExtent), integer("k", 0, kMaxExtent),
                                     integer("w_trans", 0, 1, 0).with(kPackingOnly),
                                     integer("block", 1, 4, 1).in_steps_of(3)};
constexpr Contract kContract = {kName, "gemm_f32_sparse_v1", kInputs, kOutputs, kAttributes, kEpilogueAttributes};

constexpr Operand kConvInputs[] = {{"x", kF32, 4, kBatched},
                                   {"w", kF32, 4, kPacked},
                                   {"bias", kF32, 1, kOptional | kBias},
                                   {"residual", kF32, 4, kOptional | kResidual | kBatched}};
constexpr Operand kConvOutputs[] = {{"y", kF32, 4}};
constexpr Attribute kConvBlock[] = {integer("block", 1, 4, 1).in_steps_of(3)};
constexpr Contract kConvContract = {kConvName,  "conv2d_f32_sparse_v1", kConvInputs, kConvOutputs, kConvAttributes,
                                    kConvBlock, kEpilogueAttributes};

struct Params {
  const SparseTable* table;  // null: the reference
  const EpilogueTable* epilogue_table;
  Epilogue epilogue;
  SparseLayout layout;
  bool conv;
  ConvGeometry g;  // of a convolution

  bool blocked() const { return layout.width > 1; }
  int64_t columns() const { return table->vectors[blocked()] * table->lanes; }
  const SparseTable::Multiply* kernels() const { return blocked() ? table->blocked : table->single; }
};

SparseLayout layout_of(int64_t k, int64_t n, int64_t width) {
  return {k, n, width, 1, kSparsePlaces, 1, sizeof(float)};
}

Status finish_prepare(const Attrs& attrs, Isa isa, const SparseLayout& layout, Params* p) {
  p->layout = layout;
  p->table = kSparse[isa];
  p->epilogue_table = kEpilogue[isa];
  return decode_epilogue(attrs, &p->epilogue);
}

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  int64_t n = 0, k = 0, width = 0;
  MRT_TRY(attr_int(attrs, "n", &n));
  MRT_TRY(attr_int(attrs, "k", &k));
  MRT_TRY(attr_int(attrs, "block", &width));
  p.conv = false;
  return finish_prepare(attrs, isa, layout_of(k, n, width), &p);
}

SparseLayout conv_layout(const ConvGeometry& g, int64_t width) {
  return layout_of(g.taps() * g.in_channels, g.out_channels, width);
}

Status prepare_conv(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  int64_t width = 0;
  MRT_TRY(decode_conv(attrs, &p.g));
  MRT_TRY(attr_int(attrs, "block", &width));
  p.conv = true;
  return finish_prepare(attrs, isa, conv_layout(p.g, width), &p);
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const SparseLayout& l = static_cast<const Params*>(params)->layout;
  MRT_TRY(check_dense(kName, in[0], out[0], l.n, l.k));
  return check_packed(kName, in[1], l.table_bytes());
}

Status check_conv(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_conv_images(kConvName, p.g, false, in[0], out[0]));
  return check_packed(kConvName, in[1], p.layout.table_bytes());
}

Status check_weight(const void* params, const Tensor& packed) {
  const Params& p = *static_cast<const Params*>(params);
  return check_sparse(p.conv ? kConvName : kName, p.layout, packed);
}

// Scratch of a worker: that of tiles.h, then what a convolution gathers (ConvBlock).
constexpr int64_t kGathered = 8;  // pixels at a time
size_t gathered_bytes(const Params& p) {
  constexpr int64_t kPointer = sizeof(const float*);
  const int64_t pointers = align64(static_cast<size_t>(p.g.taps() * kGathered * kPointer));
  return p.conv ? align64(static_cast<size_t>((kGathered * kSparsePlaces + p.g.in_channels) * 4)) + pointers : 0;
}
int64_t own_bytes(const Params& p) { return sparse_block_bytes(p.columns()) + sparse_sum_bytes(p.layout); }
size_t worker_bytes(const Params& p) { return (p.table ? static_cast<size_t>(own_bytes(p)) : 0) + gathered_bytes(p); }

size_t scratch(const void* params, const Tensor*, int, const Tensor*, int, int32_t threads) {
  return worker_bytes(*static_cast<const Params*>(params)) * static_cast<size_t>(threads);
}

// Blocks of the depth of the rows of a, [rows][depth of the block], `stride` apart: where they lie, or of a convolution
// gathered, kGathered of them at most.
class Rows {
 public:
  Rows(const Params& p, const DenseOperands& o, const ConvRows* conv, void* room) : p_(p), o_(o) {
    if (conv == nullptr) return;
    float* const zeros = static_cast<float*>(room) + kGathered * kSparsePlaces;
    gathered_ = static_cast<float*>(room);
    pointers_ = reinterpret_cast<const float**>(
        static_cast<char*>(room) + align64(static_cast<size_t>((kGathered * kSparsePlaces + p.g.in_channels) * 4)));
    std::fill(zeros, zeros + p.g.in_channels, 0.0f);
    conv_ = *conv;
    conv_.zeros = zeros;
  }

  int64_t most() const { return gathered_ ? kGathered : kSparseRows; }
  int64_t stride() const { return gathered_ ? kSparsePlaces : p_.layout.k; }
  const float* block(int64_t row, int64_t rows, int64_t block) const {
    const int64_t begin = block * kSparsePlaces, channels = p_.g.in_channels;
    if (!gathered_) return o_.a + row * p_.layout.k + begin;
    conv_rows<float>(&conv_, row, rows, pointers_);
    const int64_t end = std::min(p_.layout.k, begin + kSparsePlaces);
    for (int64_t k = begin; k < end;) {
      const int64_t tap = k / channels, channel = k % channels, some = std::min(channels - channel, end - k);
      for (int64_t i = 0; i < rows; ++i) {
        std::memcpy(gathered_ + i * kSparsePlaces + (k - begin), pointers_[tap * rows + i] + channel,
                    static_cast<size_t>(some) * sizeof(float));
      }
      k += some;
    }
    return gathered_;
  }

 private:
  const Params& p_;
  const DenseOperands& o_;
  ConvRows conv_{};
  float* gathered_ = nullptr;
  const float** pointers_ = nullptr;
};

int64_t count_not_finite(const float* a, int64_t n) {
  return std::count_if(a, a + n, [](float x) { return !std::isfinite(x); });
}

// A weight of zero times what is not finite is NaN, whether or not it is stored: so is the sum of each column of the
// chunk that such a product belongs to, of a row of y. The sums are `stride` apart.
template <typename T>
void spoil_columns(const SparseLayout& l, const void* packed, const Rows& rows, int64_t row, int64_t chunk, T* sums,
                   int64_t stride) {
  for (int64_t block = 0; block < l.blocks(); ++block) {
    const float* const a = rows.block(row, 1, block);
    const int64_t bad = count_not_finite(a, l.places_of(block));
    if (bad == 0) continue;
    const SparsePart part = sparse_part(l, packed, block, chunk);
    const uint8_t* index = part.index;
    for (int64_t r = 0; r < l.rows_of(chunk); index += part.counts[r++]) {
      const int64_t met = std::count_if(index, index + part.counts[r], [&](uint8_t i) { return !std::isfinite(a[i]); });
      for (int64_t j = 0; met < bad && j < l.width; ++j)
        sums[(part.order[r] * l.width + j) * stride] = std::numeric_limits<T>::quiet_NaN();
    }
  }
}

struct FloatProduct {
  const Params& p;
  const DenseOperands& o;
  const void* packed;
  Rows rows;
  bool one;  // row of a, by itself
  const SparseLayout& layout = p.layout;
  int64_t lanes = one ? 1 : p.table->lanes, columns = one ? 1 : p.columns();

  // Whether something in it is not finite.
  bool load(const SparseTile& tile, int64_t block, int64_t width, void* x) const {
    bool finite = true;
    for (int64_t r = 0; r < tile.rows; r += rows.most()) {
      const int64_t some = std::min(rows.most(), tile.rows - r);
      finite = p.table->load(rows.block(tile.row + r, some, block), rows.stride(), some, layout.places_of(block),
                             static_cast<float*>(x) + r, width) &&
               finite;
    }
    return !finite;
  }

  void multiply(int64_t block, int64_t chunk, int64_t width, const void* x, void* sums) const {
    float start[kSparseColumns] = {};
    if (o.bias) std::copy_n(o.bias + chunk * kSparseColumns, layout.columns_of(chunk), start);
    const SparsePart part = sparse_part(layout, packed, block, chunk);
    const SparseCall call{part, layout.rows_of(chunk), static_cast<const float*>(x), static_cast<float*>(sums),
                          block == 0 ? start : nullptr};
    p.kernels()[width / p.table->lanes](call);
  }

  void spoil(const SparseTile& tile, int64_t width, float* sums) const {
    for (int64_t i = 0; i < tile.rows; ++i) {
      float* to = sums + i;
      for (int64_t chunk = tile.begin; chunk < tile.end; ++chunk, to += kSparseColumns * width)
        spoil_columns(layout, packed, rows, tile.row + i, chunk, to, width);
    }
  }

  // Sums that stand as columns become rows of y.
  void finish(const SparseTile& tile, int64_t width, void* from, bool spoilt) const {
    float* const sums = static_cast<float*>(from);
    if (spoilt) spoil(tile, width, sums);
    const Epilogue& e = p.epilogue;
    const int64_t first = tile.begin * kSparseColumns, n = layout.n;
    const int64_t count = std::min(n, tile.end * kSparseColumns) - first;
    float* const y = o.y + tile.row * n + first;
    const float* const residual = o.residual ? o.residual + tile.row * n + first : nullptr;
    p.table->transpose(sums, width, count, tile.rows, y, n);
    if (residual && !e.residual_after) {
      for (int64_t i = 0; i < tile.rows; ++i)
        for (int64_t j = 0; j < count; ++j) y[i * n + j] += residual[i * n + j];
    }
    const float* const after = e.residual_after ? residual : nullptr;
    if (e.act != Act::none || after) p.epilogue_table->apply(e, y, n, tile.rows, count, after, n);
  }
};

// ---- the formula, in double precision ----

void reference_chunk(const Params& p, const DenseOperands& o, const void* packed, const Rows& rows, int64_t i,
                     int64_t chunk) {
  const SparseLayout& l = p.layout;
  double sums[kSparseColumns] = {};
  for (int64_t block = 0; block < l.blocks(); ++block) {
    const SparsePart part = sparse_part(l, packed, block, chunk);
    const uint8_t* index = part.index;
    const float* w = static_cast<const float*>(part.weights);
    const float* const a = rows.block(i, 1, block);
    for (int64_t r = 0; r < l.rows_of(chunk); ++r) {
      for (int64_t e = 0; e < part.counts[r]; ++e, ++index, w += l.width) {
        for (int64_t j = 0; j < l.width; ++j)
          sums[part.order[r] * l.width + j] += static_cast<double>(a[*index]) * static_cast<double>(w[j]);
      }
    }
  }
  spoil_columns(l, packed, rows, i, chunk, sums, 1);
  for (int64_t j = 0; j < l.columns_of(chunk); ++j) {
    const int64_t column = chunk * kSparseColumns + j, at = i * l.n + column;
    o.y[at] = epilogue_reference(p.epilogue, sums[j], o.bias ? o.bias + column : nullptr,
                                 o.residual ? o.residual + at : nullptr);
  }
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  if (has_no_elements(out[0])) return MRT_OK;
  DenseOperands o = dense_operands(in, n_in, 2, 3, out[0]);
  o.m = out[0].extent(0, out[0].ndim - 1);
  const void* const packed = in[1].data;
  const ConvRows gathered = p.conv ? conv_rows_of<float>(p.g, in[0], out[0], p.g.kernel_w) : ConvRows{};
  const ConvRows* const conv = p.conv ? &gathered : nullptr;
  if (!p.table) {
    const Rows rows(p, o, conv, ctx.scratch);
    for (int64_t i = 0; i < o.m; ++i)
      for (int64_t chunk = 0; chunk < p.layout.chunks(); ++chunk) reference_chunk(p, o, packed, rows, i, chunk);
    return MRT_OK;
  }
  const bool one = o.m == 1 && p.kernels()[0] != nullptr;
  run_sparse(p.layout, o.m, one ? 1 : p.columns(), static_cast<int64_t>(worker_bytes(p)), ctx,
             [&](const SparseTile&, char* own) {
               return FloatProduct{p, o, packed, Rows(p, o, conv, own + own_bytes(p)), one};
             });
  return MRT_OK;
}

// ---- packing ----

void arrange(SparseRow<float>* row) { row->counts[0] = row->entries; }

Status pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  DenseWeight w;
  int64_t width = 0;
  MRT_TRY(decode_dense(weight, attrs, &w));
  MRT_TRY(attr_int(attrs, "block", &width));
  const SparseSource<float> source{weight.as<const float>(), w.stride_k, w.stride_n};
  *bytes = pack_sparse(layout_of(w.k, w.n, width), source, arrange, out);
  return Status();
}

Status pack_conv(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  ConvGeometry g;
  int64_t width = 0;
  MRT_TRY(decode_conv(attrs, &g));
  MRT_TRY(attr_int(attrs, "block", &width));
  MRT_TRY(check_conv_filter(kConvName, g, weight, g.out_channels, g.in_channels));
  const SparseSource<float> source{weight.as<const float>(), 0, g.in_channels * g.taps(), g.taps(), g.in_channels};
  *bytes = pack_sparse(conv_layout(g, width), source, arrange, out);
  return Status();
}

// Of the weights that there are: an entry is a place, of a byte, and its weights.
double flops(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const SparseLayout& l = static_cast<const Params*>(params)->layout;
  const double entries = static_cast<double>(in[1].bytes) / static_cast<double>(l.entry_bytes() + 1);
  return l.n == 0 ? 0.0
                  : 2.0 * element_count(out[0]) / static_cast<double>(l.n) * entries * static_cast<double>(l.width);
}

}  // namespace

const Operator kOperator_conv2d_f32_sparse = {&kConvContract, kSparse.rows, sizeof(Params), prepare_conv,
                                              check_conv,     run,          scratch,        flops,
                                              pack_conv,      nullptr,      nullptr,        check_weight};
const Operator kOperator_gemm_f32_sparse = {&kContract, kSparse.rows, sizeof(Params), prepare, check,   run,
                                            scratch,    flops,        pack,           nullptr, nullptr, check_weight};

}  // namespace mrt
