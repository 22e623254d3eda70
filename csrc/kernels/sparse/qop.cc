// gemm_u8s8_sparse: as gemm_u8s8, with weights of which only blocks of four columns and four k's that are not all zero
// are stored (packing.h, qmultiply.h); tiles.h is how. Behind the parts of the packing stand the sums of the columns of
// w, int32 [n], which a zero point of a multiplies.
#include "kernels/checks.h"
#include "kernels/gemm/dense.h"
#include "kernels/gemm/pack.h"
#include "kernels/qgemm/blocked.h"
#include "kernels/qgemm/reference.h"
#include "kernels/sparse/multiply.h"
#include "kernels/sparse/qmultiply.h"
#include "kernels/sparse/qpack.h"
#include "kernels/sparse/tiles.h"

namespace mrt {
namespace {

constexpr const char* kName = "gemm_u8s8_sparse";
constexpr int64_t kWidth = 4, kDeep = 4;

constexpr Operand kInputs[] = {{"a", kU8, kAnyRank, kBatched},
                               {"w", kS8, 2, kPacked},
                               {"scale", kF32, 1},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32, kAnyRank, kOptional | kResidual | kBatched},
                               {"a_scale", kF32, 0, kOptional},
                               {"a_zero", kU8, 0, kOptional}};
constexpr Operand kOutputs[] = {{"y", kQOutputs, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("n", 0, kMaxExtent), integer("k", 0, kQMaxDepth),
                                     integer("w_trans", 0, 1, 0).with(kPackingOnly)};
constexpr Contract kContract = {kName,
                                "gemm_u8s8_sparse_v1",
                                kInputs,
                                kOutputs,
                                kAttributes,
                                kEpilogueAttributes,
                                kQOutputAttributes,
                                kQInputAttributes};

struct Params {
  const QSparseTable* table;  // null: the reference
  const SparseTable* floats;  // of the same instruction set: what transposes
  const QTileTable* tiles;    // what finishes
  QOutput output;
  SparseLayout layout;
  int64_t a_zero;

  int64_t columns() const { return table->vectors * table->lanes; }
};

SparseLayout layout_of(int64_t k, int64_t n) { return {k, n, kWidth, kDeep, kSparsePlaces, kSparseKinds, 1}; }

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  int64_t n = 0, k = 0;
  MRT_TRY(attr_int(attrs, "n", &n));
  MRT_TRY(attr_int(attrs, "k", &k));
  MRT_TRY(attr_int(attrs, "a_zero", &p.a_zero));
  MRT_TRY(decode_q_output(attrs, &p.output));
  p.layout = layout_of(k, n);
  p.table = kQSparse[isa];
  p.floats = kSparse[isa];
  p.tiles = kQTile[isa];
  return Status();
}

int64_t column_sum_bytes(const SparseLayout& l) { return checked_mul(l.n, static_cast<int64_t>(sizeof(int32_t))); }
const int32_t* column_sums(const SparseLayout& l, const void* packed) {
  const int64_t end = static_cast<const int64_t*>(packed)[l.n == 0 ? 0 : l.parts()];
  return reinterpret_cast<const int32_t*>(static_cast<const char*>(packed) + end);
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_dense(kName, in[0], out[0], p.layout.n, p.layout.k));
  MRT_TRY(check_packed(kName, in[1], p.layout.table_bytes()));
  return check_q_operands(kName, p.output, p.layout.n, in, n_in, out[0]);
}

Status check_weight(const void* params, const Tensor& packed) {
  const SparseLayout& l = static_cast<const Params*>(params)->layout;
  Tensor parts = packed;
  parts.bytes -= std::min<size_t>(parts.bytes, static_cast<size_t>(std::max<int64_t>(0, column_sum_bytes(l))));
  return check_sparse(kName, l, parts);
}

// Scratch of a worker, behind that of tiles.h: the rows of a tile's block, 16 columns of a tile's sums, and what panels
// of 16 columns of an item are finished with.
int64_t row_bytes(const Params& p) { return p.columns() * kSparsePlaces * kDeep; }
int64_t panel_bytes(const Params& p) { return p.columns() * kQPanel * 4; }
int64_t own_bytes(const Params& p) { return sparse_block_bytes(p.columns()) + sparse_sum_bytes(p.layout); }
int64_t worker_bytes(const Params& p) {
  constexpr int64_t kPanels = kSparseChunks * kSparseColumns / kQPanel;
  return own_bytes(p) + row_bytes(p) + panel_bytes(p) + kPanels * static_cast<int64_t>(sizeof(QFolded));
}

size_t scratch(const void* params, const Tensor*, int, const Tensor*, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  return p.table ? static_cast<size_t>(worker_bytes(p) * threads) : 0;
}

struct ByteProduct {
  const Params& p;
  const uint8_t* a;
  const void* packed;
  const QFinishCall& call;
  uint32_t a_zero;
  char* room;
  bool one;  // row of a, by itself
  const SparseLayout& layout = p.layout;
  int64_t lanes = one ? 1 : p.table->lanes, columns = one ? 1 : p.columns();

  // Four k's are moved as one element, for which the rows are copied to where such may stand; of one row that is all.
  bool load(const SparseTile& tile, int64_t block, int64_t width, void* x) const {
    const int64_t places = layout.places_of(block), begin = block * layout.depth();
    const size_t bytes = static_cast<size_t>(std::min(places * kDeep, layout.k - begin));
    for (int64_t i = 0; i < tile.rows; ++i) {
      char* const to = one ? static_cast<char*>(x) : room + i * kSparsePlaces * kDeep;
      std::memcpy(to, a + (tile.row + i) * layout.k + begin, bytes);
      std::memset(to + bytes, 0, static_cast<size_t>(places * kDeep) - bytes);
    }
    if (!one) {
      p.floats->transpose(reinterpret_cast<const float*>(room), kSparsePlaces, tile.rows, places,
                          static_cast<float*>(x), width);
    }
    return false;
  }

  void multiply(int64_t block, int64_t chunk, int64_t width, const void* x, void* sums) const {
    int32_t start[kSparseColumns] = {};
    const int32_t* const w = column_sums(layout, packed) + chunk * kSparseColumns;
    for (int64_t j = 0; block == 0 && j < layout.columns_of(chunk); ++j)
      start[j] = static_cast<int32_t>(0u - a_zero * static_cast<uint32_t>(w[j]));
    const SparsePart part = sparse_part(layout, packed, block, chunk);
    p.table->multiply[width / p.table->lanes]({part, layout.rows_of(chunk), static_cast<const uint8_t*>(x),
                                               static_cast<int32_t*>(sums), block == 0 ? start : nullptr});
  }

  // Of the columns from `column` on, 16 of them at most, without what differs from row to row.
  QFinishCall panel(int64_t column) const {
    static constexpr int32_t kNone[kQPanel] = {};
    QFinishCall c = call;
    c.n = std::min(kQPanel, layout.n - column);
    c.offset = kNone;
    c.scale += column;
    if (c.bias) c.bias += column;
    return c;
  }

  QFolded* folded() const { return reinterpret_cast<QFolded*>(room + row_bytes(p) + panel_bytes(p)); }
  void fold(const SparseTile& item) const {
    QFolded* to = folded();
    for (int64_t column = item.begin * kSparseColumns; column < end_of(item); column += kQPanel)
      *to++ = q_fold(panel(column));
  }
  int64_t end_of(const SparseTile& item) const { return std::min(layout.n, item.end * kSparseColumns); }

  // 16 columns of y at a time.
  void finish(const SparseTile& tile, int64_t width, const void* sums, bool) const {
    float* const acc = reinterpret_cast<float*>(room + row_bytes(p));
    const float* from = static_cast<const float*>(sums);
    const QFolded* folded_panel = folded();
    for (int64_t column = tile.begin * kSparseColumns; column < end_of(tile); column += kQPanel, ++folded_panel) {
      QFinishCall c = panel(column);
      p.floats->transpose(from, width, c.n, tile.rows, acc, kQPanel);
      from += kQPanel * width;
      c.acc = reinterpret_cast<int32_t*>(acc);
      c.ld = kQPanel;
      c.rows = tile.rows;
      const int64_t at = tile.row * layout.n + column;
      if (c.residual) c.residual += at;
      c.y = static_cast<char*>(c.y) + at * (c.quantized ? 1 : 4);
      if (c.folds()) c.folded = folded_panel;
      p.tiles->finish(c);
    }
  }
};

// ---- the formula ----

void reference_chunk(const SparseLayout& l, const QFinishCall& finish, const void* packed, const uint8_t* a,
                     int64_t a_zero, int64_t i, int64_t chunk) {
  int64_t sums[kSparseColumns] = {};
  for (int64_t block = 0; block < l.blocks(); ++block) {
    const SparsePart part = sparse_part(l, packed, block, chunk);
    const uint8_t* index = part.index;
    const int8_t* w = static_cast<const int8_t*>(part.weights);
    const int64_t rows = l.rows_of(chunk);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t entries = part.counts[r] + part.counts[rows + r] + part.counts[2 * rows + r];
      for (int64_t e = 0; e < entries; ++e, ++index, w += kWidth * kDeep) {
        for (int64_t j = 0; j < kWidth * kDeep; ++j) {
          const int64_t k = block * l.depth() + *index * kDeep + j % kDeep;
          if (k < l.k) sums[part.order[r] * kWidth + j / kDeep] += (a[i * l.k + k] - a_zero) * w[j];
        }
      }
    }
  }
  for (int64_t j = 0; j < l.columns_of(chunk); ++j) q_reference_element(finish, sums[j], i, chunk * kSparseColumns + j);
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  if (has_no_elements(out[0])) return MRT_OK;
  const int64_t m = in[0].extent(0, in[0].ndim - 1), a_zero = q_a_zero(in, n_in, p.a_zero);
  const QFinishCall finish = q_finish_call(p.output, in, n_in, out[0], p.layout.n);
  const uint8_t* const a = in[0].as<const uint8_t>();
  const void* const packed = in[1].data;
  if (!p.table) {
    for (int64_t i = 0; i < m; ++i)
      for (int64_t chunk = 0; chunk < p.layout.chunks(); ++chunk)
        reference_chunk(p.layout, finish, packed, a, a_zero, i, chunk);
    return MRT_OK;
  }
  const bool one = m == 1 && p.table->multiply[0] != nullptr;
  run_sparse(p.layout, m, one ? 1 : p.columns(), worker_bytes(p), ctx, [&](const SparseTile& item, char* own) {
    const ByteProduct product{p, a, packed, finish, static_cast<uint32_t>(a_zero), own + own_bytes(p), one};
    if (finish.folds()) product.fold(item);
    return product;
  });
  return MRT_OK;
}

// ---- packing ----

Status pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  DenseWeight w;
  int64_t a_max = 0;
  MRT_TRY(decode_dense(weight, attrs, &w));
  MRT_TRY(attr_int(attrs, "a_max", &a_max));
  MRT_TRY(q_check_depth(kName, 1, w.k));
  const SparseLayout l = layout_of(w.k, w.n);
  const int8_t* const data = weight.as<const int8_t>();
  const int64_t end = pack_sparse(l, SparseSource<int8_t>{data, w.stride_k, w.stride_n}, SparsePairs{a_max}, out);
  *bytes = end < 0 ? -1 : end + column_sum_bytes(l);
  for (int64_t j = 0; out != nullptr && j < w.n; ++j) {
    int32_t sum = 0;
    for (int64_t k = 0; k < w.k; ++k) sum += data[k * w.stride_k + j * w.stride_n];
    std::memcpy(static_cast<char*>(out) + end + 4 * j, &sum, sizeof(sum));
  }
  return Status();
}

// Of the weights that there are: an entry is a place, of a byte, and its weights.
double flops(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const SparseLayout& l = static_cast<const Params*>(params)->layout;
  const double entries = static_cast<double>(in[1].bytes) / static_cast<double>(l.entry_bytes() + 1);
  return l.n == 0 ? 0.0 : 2.0 * element_count(out[0]) / static_cast<double>(l.n) * entries * kWidth * kDeep;
}

}  // namespace

const Operator kOperator_gemm_u8s8_sparse = {&kContract, kQSparse.rows, sizeof(Params), prepare, check,   run,
                                             scratch,    flops,         pack,           nullptr, nullptr, check_weight};

}  // namespace mrt
