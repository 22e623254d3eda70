// gemm_f32_sparse: y [..., n] = epilogue(a [..., k] * w [k, n]) with weights of which only those that are not zero are
// stored (packing.h). Rows of a are taken a few vectors at a time and transposed, a block of the depth after the other,
// so that it stays in L1 while all weights of the block meet it; sums wait in L2 for the next block, transposed as
// well. (Blocking as E. Elsen, M. Dukhan, T. Gale and K. Simonyan, "Fast Sparse ConvNets", 2020, whose activations
// have this layout from the start.)
#include <cmath>

#include "kernels/checks.h"
#include "kernels/gemm/dense.h"
#include "kernels/gemm/pack.h"
#include "kernels/sparse/multiply.h"
#include "kernels/sparse/pack.h"

namespace mrt {
namespace {

constexpr const char* kName = "gemm_f32_sparse";

constexpr Operand kInputs[] = {{"a", kF32, kAnyRank, kBatched},
                               {"w", kF32, 2, kPacked},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32, kAnyRank, kOptional | kResidual | kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("n", 0, kMaxExtent), integer("k", 0, kMaxExtent),
                                     integer("w_trans", 0, 1, 0).with(kPackingOnly),
                                     integer("block", 1, 4, 1).in_steps_of(3)};
constexpr Contract kContract = {kName, "gemm_f32_sparse_v1", kInputs, kOutputs, kAttributes, kEpilogueAttributes};

constexpr int64_t kPlaces = 256;  // of a block of the depth: 32 KiB of 32 columns
constexpr int64_t kRows = 64;     // of a in an item: weights that were read once are multiplied by them all
constexpr int64_t kChunks = 4;    // of an item, at most: 256 KiB of sums

struct Params {
  const SparseTable* table;  // null: the reference
  const EpilogueTable* epilogue_table;
  Epilogue epilogue;
  SparseLayout layout;

  bool blocked() const { return layout.width > 1; }
  int64_t columns() const { return table->vectors[blocked()] * table->lanes; }
};

SparseLayout layout_of(int64_t k, int64_t n, int64_t width) { return {k, n, width, 1, kPlaces, 1, sizeof(float)}; }

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  int64_t n = 0, k = 0, width = 0;
  MRT_TRY(attr_int(attrs, "n", &n));
  MRT_TRY(attr_int(attrs, "k", &k));
  MRT_TRY(attr_int(attrs, "block", &width));
  MRT_TRY(decode_epilogue(attrs, &p.epilogue));
  p.layout = layout_of(k, n, width);
  p.table = kSparse[isa];
  p.epilogue_table = kEpilogue[isa];
  return Status();
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const SparseLayout& l = static_cast<const Params*>(params)->layout;
  MRT_TRY(check_dense(kName, in[0], out[0], l.n, l.k));
  return check_packed(kName, in[1], l.table_bytes());
}

Status check_weight(const void* params, const Tensor& packed) {
  return check_sparse(kName, static_cast<const Params*>(params)->layout, packed);
}

// How the product is cut into items: rows of a, and chunks of columns.
struct Items {
  int64_t rows, chunks;  // of an item, at most
  int64_t down, across;
  Items(const Params& p, int64_t m, int64_t threads) {
    const int64_t all = p.layout.chunks(), wanted = threads > 1 ? 4 * threads : 1;
    rows = kRows;
    if (ceil_div(m, rows) * ceil_div(all, kChunks) < wanted) rows = p.columns();
    down = ceil_div(m, rows);
    chunks = std::max<int64_t>(1, std::min(kChunks, all * down / wanted));
    across = ceil_div(all, chunks);
  }
};

size_t block_bytes(const Params& p) { return static_cast<size_t>(kPlaces * p.columns()) * sizeof(float); }
size_t item_bytes(const Params& p) {
  const int64_t chunks = std::min(kChunks, p.layout.chunks());
  return block_bytes(p) + static_cast<size_t>(chunks * kSparseColumns * kRows) * sizeof(float);
}

size_t scratch(const void* params, const Tensor*, int, const Tensor*, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  return p.table ? item_bytes(p) * static_cast<size_t>(threads) : 0;
}

// ---- one item: a few tiles of rows of a, and the chunks [begin, end) ----

struct Item {
  int64_t row, rows;  // of a
  int64_t begin, end;
};

void multiply_chunk(const Params& p, const float* bias, const void* packed, int64_t block, int64_t chunk,
                    int64_t vectors, const float* x, float* sums) {
  float start[kSparseColumns] = {};
  if (bias) std::copy_n(bias + chunk * kSparseColumns, p.layout.columns_of(chunk), start);
  const SparsePart part = sparse_part(p.layout, packed, block, chunk);
  const SparseCall call{part, p.layout.rows_of(chunk), x, sums, block == 0 ? start : nullptr};
  (p.blocked() ? p.table->blocked : p.table->single)[vectors](call);
}

int64_t count_not_finite(const float* a, int64_t n) {
  return std::count_if(a, a + n, [](float x) { return !std::isfinite(x); });
}

// A weight of zero times what is not finite is NaN, whether or not it is stored: calls spoil(column of the chunk) for
// each column that such a product belongs to, of the row of y that is made of `a`.
template <typename F>
void spoil_columns(const SparseLayout& l, const void* packed, const float* a, int64_t chunk, F spoil) {
  for (int64_t block = 0; block < l.blocks(); ++block, a += l.depth()) {
    const int64_t bad = count_not_finite(a, l.places_of(block));
    if (bad == 0) continue;
    const SparsePart part = sparse_part(l, packed, block, chunk);
    const uint8_t* index = part.index;
    for (int64_t r = 0; r < l.rows_of(chunk); index += part.counts[r++]) {
      const int64_t met = std::count_if(index, index + part.counts[r], [&](uint8_t i) { return !std::isfinite(a[i]); });
      for (int64_t j = 0; met < bad && j < l.width; ++j) spoil(part.order[r] * l.width + j);
    }
  }
}

void spoil_tile(const Params& p, const DenseOperands& o, const void* packed, const Item& tile, float* sums,
                int64_t columns) {
  for (int64_t i = 0; i < tile.rows; ++i) {
    float* to = sums + i;
    for (int64_t chunk = tile.begin; chunk < tile.end; ++chunk, to += kSparseColumns * columns)
      spoil_columns(p.layout, packed, o.a + (tile.row + i) * p.layout.k, chunk,
                    [&](int64_t column) { to[column * columns] = std::nanf(""); });
  }
}

// Sums that stand as columns become rows of y.
void finish_tile(const Params& p, const DenseOperands& o, const Item& tile, const float* sums, int64_t columns) {
  const Epilogue& e = p.epilogue;
  const int64_t first = tile.begin * kSparseColumns, n = p.layout.n;
  const int64_t width = std::min(n, tile.end * kSparseColumns) - first;
  float* const y = o.y + tile.row * n + first;
  const float* const residual = o.residual ? o.residual + tile.row * n + first : nullptr;
  p.table->transpose(sums, columns, width, tile.rows, y, n);
  if (residual && !e.residual_after) {
    for (int64_t i = 0; i < tile.rows; ++i)
      for (int64_t j = 0; j < width; ++j) y[i * n + j] += residual[i * n + j];
  }
  const float* const after = e.residual_after ? residual : nullptr;
  if (e.act != Act::none || after) p.epilogue_table->apply(e, y, n, tile.rows, width, after, n);
}

void run_item(const Params& p, const DenseOperands& o, const void* packed, const Item& item, Watch* watch, float* x) {
  const SparseLayout& l = p.layout;
  const int64_t lanes = p.table->lanes, most = p.columns(), chunks = item.end - item.begin;
  float* const sums = x + kPlaces * most;
  // Calls f(tile, its columns, its sums).
  const auto each_tile = [&](auto f) {
    float* to = sums;
    for (int64_t row = 0; row < item.rows; row += most) {
      const int64_t rows = std::min(most, item.rows - row), columns = ceil_div(rows, lanes) * lanes;
      f(Item{item.row + row, rows, item.begin, item.end}, columns, to);
      to += chunks * kSparseColumns * columns;
    }
  };
  int64_t spoilt = 0;  // a bit for each tile: not all of its rows is finite
  Pace pace(watch, 2.0 * static_cast<double>(kPlaces * kRows * chunks * kSparseColumns));
  for (int64_t block = 0; block < l.blocks(); ++block) {
    if (pace.stop()) return;
    each_tile([&](const Item& tile, int64_t columns, float* to) {
      if (tile.rows < columns) std::fill(x, x + kPlaces * columns, 0.0f);
      const float* const a = o.a + tile.row * l.k + block * l.depth();
      if (!p.table->transpose(a, l.k, tile.rows, l.places_of(block), x, columns))
        spoilt |= int64_t{1} << (tile.row - item.row) / most;
      for (int64_t chunk = item.begin; chunk < item.end; ++chunk, to += kSparseColumns * columns)
        multiply_chunk(p, o.bias, packed, block, chunk, columns / lanes, x, to);
    });
  }
  each_tile([&](const Item& tile, int64_t columns, float* to) {
    if ((spoilt >> (tile.row - item.row) / most & 1) != 0) spoil_tile(p, o, packed, tile, to, columns);
    finish_tile(p, o, tile, to, columns);
  });
}

// ---- the formula, in double precision ----

void reference_chunk(const Params& p, const DenseOperands& o, const void* packed, int64_t i, int64_t chunk) {
  const SparseLayout& l = p.layout;
  double sums[kSparseColumns] = {};
  for (int64_t block = 0; block < l.blocks(); ++block) {
    const SparsePart part = sparse_part(l, packed, block, chunk);
    const uint8_t* index = part.index;
    const float* w = static_cast<const float*>(part.weights);
    const float* const a = o.a + i * l.k + block * l.depth();
    for (int64_t r = 0; r < l.rows_of(chunk); ++r) {
      for (int64_t e = 0; e < part.counts[r]; ++e, ++index, w += l.width) {
        for (int64_t j = 0; j < l.width; ++j)
          sums[part.order[r] * l.width + j] += static_cast<double>(a[*index]) * static_cast<double>(w[j]);
      }
    }
  }
  spoil_columns(l, packed, o.a + i * l.k, chunk, [&](int64_t column) { sums[column] = std::nan(""); });
  for (int64_t j = 0; j < l.columns_of(chunk); ++j) {
    const int64_t column = chunk * kSparseColumns + j, at = i * l.n + column;
    o.y[at] = epilogue_reference(p.epilogue, sums[j], o.bias ? o.bias + column : nullptr,
                                 o.residual ? o.residual + at : nullptr);
  }
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  if (has_no_elements(out[0])) return MRT_OK;
  const DenseOperands o = dense_operands(in, n_in, 2, 3, out[0]);
  const void* const packed = in[1].data;
  if (!p.table) {
    for (int64_t i = 0; i < o.m; ++i)
      for (int64_t chunk = 0; chunk < p.layout.chunks(); ++chunk) reference_chunk(p, o, packed, i, chunk);
    return MRT_OK;
  }
  const int64_t threads = ctx.pool ? ctx.threads : 1;
  const Items items(p, o.m, threads);
  parallel_items(ctx, items.down * items.across, threads, [&](int64_t worker, int64_t i) {
    const int64_t row = i / items.across * items.rows, begin = i % items.across * items.chunks;
    const Item item{row, std::min(items.rows, o.m - row), begin, std::min(p.layout.chunks(), begin + items.chunks)};
    char* const own = static_cast<char*>(ctx.scratch) + static_cast<size_t>(worker) * item_bytes(p);
    run_item(p, o, packed, item, ctx.watch, reinterpret_cast<float*>(own));
  });
  return MRT_OK;
}

// ---- packing ----

Status pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  DenseWeight w;
  int64_t width = 0;
  MRT_TRY(decode_dense(weight, attrs, &w));
  MRT_TRY(attr_int(attrs, "block", &width));
  const SparseSource<float> source{weight.as<const float>(), w.stride_k, w.stride_n};
  const auto arrange = [](SparseRow<float>* row) { row->counts[0] = row->entries; };
  *bytes = pack_sparse(layout_of(w.k, w.n, width), source, arrange, out);
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

const Operator kOperator_gemm_f32_sparse = {&kContract, kSparse.rows, sizeof(Params), prepare, check,   run,
                                            scratch,    flops,        pack,           nullptr, nullptr, check_weight};

}  // namespace mrt
