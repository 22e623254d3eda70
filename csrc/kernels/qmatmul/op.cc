// matmul_u8: y = finish((a - a_zero) * (b - b_zero)) of two uint8 operands that only a run knows, batch dimensions
// broadcast; sums are exact. y of float32 is scale times the sum, one of 8 bits is quantized from that, one of int32 is
// the sum. The scale and the zero points may be known to the run alone: in[2] to in[4].
#include <algorithm>
#include <iterator>

#include "kernels/gemm/pieces.h"
#include "kernels/matmul/batch.h"
#include "kernels/qgemm/blocked.h"
#include "kernels/qgemm/reference.h"
#include "kernels/qmatmul/qmatmul_kernels.h"

namespace mrt {
namespace {

constexpr const char* kName = "matmul_u8";

constexpr Operand kInputs[] = {{"a", kU8, kAnyRank},
                               {"b", kU8, kAnyRank},
                               {"scale", kF32, 0, kOptional},
                               {"a_zero", kU8, 0, kOptional},
                               {"b_zero", kU8, 0, kOptional}};
constexpr Operand kOutputs[] = {{"y", kQOutputs, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("a_zero", 0, 255, 0), integer("b_zero", 0, 255, 0), number("scale", 1)};
constexpr Contract kContract = {kName, "", kInputs, kOutputs, kAttributes, kQOutputAttributes};
constexpr int64_t kMaxDepth = 32768;  // 255 * 255 * kMaxDepth fits in 32 bits with a sign; deeper ones are references
constexpr int kScale = 2, kAZero = 3, kBZero = 4;
constexpr int64_t kBlockRows = 48;  // of a that one piece of parallel work takes at least

struct Params {
  const QMatmulKernel* kernel;  // null: the reference
  const QTileTable* table;      // its finish
  QOutput output;
  int64_t a_zero, b_zero;
  float scale[kPairPanel];
};

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  double scale;
  MRT_TRY(attr_int(attrs, "a_zero", &p.a_zero));
  MRT_TRY(attr_int(attrs, "b_zero", &p.b_zero));
  MRT_TRY(attr_float(attrs, "scale", &scale));
  MRT_TRY(decode_q_output(attrs, &p.output));
  std::fill(p.scale, p.scale + kPairPanel, static_cast<float>(scale));
  p.kernel = kQMatmul[isa];
  p.table = kQTile[isa];
  return Status();
}

Status check_output(const Params& p, const Tensor& y) {
  const bool is_signed = y.dtype.code == MRT_INT;
  const int64_t lo = is_signed ? -128 : 0, hi = is_signed ? 127 : 255;
  if (y.dtype.bits == 8 && (p.output.zero < lo || p.output.zero > hi)) {
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: y_zero is %d, which y's type does not hold", kName,
                static_cast<int>(p.output.zero));
  }
  return Status();
}

// The extents of one product.
struct Shape {
  int64_t m, n, k;
};
Shape shape_of(const Tensor* in) {
  return {in[0].shape[in[0].ndim - 2], in[1].shape[in[1].ndim - 1], in[0].shape[in[0].ndim - 1]};
}

// ---- scratch, of each worker: which b it has, that b in panels, the rows of a that it works on, their sums ----

struct Layout {
  int64_t b, a, acc;  // bytes; b is -1 where there are too many
  int64_t panels, pairs;

  static constexpr int64_t kHeader = 64;
  int64_t all() const { return kHeader + b + a + acc; }
};

Layout layout_of(const Shape& s) {
  Layout l{};
  l.panels = ceil_div(s.n, kPairPanel);
  l.pairs = pairs_of(s.k);
  const int64_t pair = 2 * static_cast<int64_t>(sizeof(int16_t));
  l.b = checked_mul(checked_mul(l.panels, l.pairs), kPairPanel * pair);
  l.a = static_cast<int64_t>(align64(static_cast<size_t>(kBlockRows * l.pairs * pair)));
  l.acc = kBlockRows * kQMaxPanels * kPairPanel * static_cast<int64_t>(sizeof(int32_t));
  return l;
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  const Tensor &a = in[0], &b = in[1], &y = out[0];
  MRT_TRY(check_output(p, y));
  MRT_TRY(check_batch(kName, a, b, y));
  const Shape s = shape_of(in);
  MRT_TRY(check_extent(kName, "b", b, b.ndim - 2, s.k));
  MRT_TRY(check_extent(kName, "y", y, y.ndim - 2, s.m));
  MRT_TRY(check_extent(kName, "y", y, y.ndim - 1, s.n));
  if (!has_no_elements(y) && layout_of(s).b < 0) {
    return fail(MRT_ERROR_SHAPE, "%s: b is too large to pack", kName);
  }
  return Status();
}

size_t scratch(const void* params, const Tensor* in, int, const Tensor* out, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  if (p.kernel == nullptr || has_no_elements(out[0])) return 0;
  return static_cast<size_t>(layout_of(shape_of(in)).all()) * static_cast<size_t>(threads);
}

// ---- the product ----

QFinishCall finish_of(const Params& p, const Tensor& y, int64_t columns) {
  const Tensor operands[3] = {};
  QFinishCall f = q_finish_call(p.output, operands, 0, y, columns);
  f.scale = p.scale;
  return f;
}

void pack(const Params& p, const Shape& s, const Layout& l, const uint8_t* b, int16_t* out) {
  for (int64_t panel = 0; panel < l.panels; ++panel) {
    const int64_t column = panel * kPairPanel;
    p.kernel->pack(b + column, s.k, s.n, std::min(kPairPanel, s.n - column), static_cast<int32_t>(p.b_zero),
                   out + column * 2 * l.pairs);
  }
}

// Rows [m0, m1) of one product; b is packed already.
void rows_of_product(const Params& p, const Shape& s, const Layout& l, const uint8_t* a, int64_t m0, int64_t m1,
                     QFinishCall f, int64_t row, char* scratch) {
  static const int32_t no_offset[kPairPanel] = {};
  const int16_t* const packed = reinterpret_cast<const int16_t*>(scratch);
  int16_t* const wide = reinterpret_cast<int16_t*>(scratch + l.b);
  int32_t* const acc = reinterpret_cast<int32_t*>(scratch + l.b + l.a);
  const int64_t lda = 2 * l.pairs;
  const size_t element = f.quantized ? 1 : sizeof(float);
  char* const y = static_cast<char*>(f.y);
  f.acc = acc;
  f.ld = kPairPanel;
  f.offset = no_offset;
  for (int64_t begin = m0; begin < m1; begin += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, m1 - begin);
    for (int64_t i = 0; i < rows; ++i) {
      p.kernel->widen(a + (begin + i) * s.k, s.k, static_cast<int32_t>(p.a_zero), wide + i * lda);
    }
    for (int64_t panel = 0; panel < l.panels; ++panel) {
      for (int64_t i = 0; i < rows; i += p.kernel->rows) {
        p.kernel->tile(wide + i * lda, lda, std::min<int64_t>(p.kernel->rows, rows - i), l.pairs,
                       packed + panel * lda * kPairPanel, acc + i * kPairPanel);
      }
      f.rows = rows;
      f.n = std::min(kPairPanel, s.n - panel * kPairPanel);
      f.y = y + static_cast<size_t>((row + begin) * f.ldy + panel * kPairPanel) * element;
      p.table->finish(f);
    }
  }
}

// ---- the same in tiles of bytes ----
//
// sum (a - a_zero) (b - b_zero) = sum a (b - 128) - z sum a - a_zero (sum (b - 128) - k z), z = b_zero - 128: what
// depends on the row and on the column alone is what the sums of a tile begin with.

constexpr int64_t kFewSums = 1024;  // that do not pay for it, measured on Zen 5

bool in_bytes(const Params& p, const Shape& s) {
  if (!p.kernel->pack_bytes || p.table->wide_rows == 0 || s.k < kQGroup || s.m * s.n < kFewSums) return false;
  return s.m > kBlockRows || Tiles(s.m, p.table->wide_rows).height >= kQWideLeast;
}

int64_t bytes_of_panel(const Shape& s) { return ceil_div(s.k, kQGroup) * kQGroup * kQPanel; }

// Panels, and behind them what the sums of their columns begin with.
void pack_bytes(const Params& p, const Shape& s, const Layout& l, const uint8_t* b, int8_t* out) {
  int32_t* start = reinterpret_cast<int32_t*>(out + l.panels * bytes_of_panel(s));
  const int32_t all = static_cast<int32_t>(s.k * (p.b_zero - 128));
  for (int64_t column = 0; column < s.n; column += kQPanel, out += bytes_of_panel(s), start += kQPanel) {
    p.kernel->pack_bytes(b + column, s.k, s.n, std::min(kQPanel, s.n - column), out, start);
    for (int64_t j = 0; j < kQPanel; ++j) start[j] = static_cast<int32_t>(p.a_zero) * (all - start[j]);
  }
}

void bytes_of_product(const Params& p, const Shape& s, const Layout& l, const uint8_t* a, int64_t m0, int64_t m1,
                      QFinishCall f, int64_t row, char* scratch) {
  alignas(64) static const int32_t no_offset[kQPanel] = {};
  const uint8_t* rows_of_a[kBlockRows];
  int32_t of_row[kBlockRows];
  const int8_t* const packed = reinterpret_cast<const int8_t*>(scratch);
  const int64_t panel_bytes = bytes_of_panel(s);
  const int32_t* const start = reinterpret_cast<const int32_t*>(packed + l.panels * panel_bytes);
  int32_t* const acc = reinterpret_cast<int32_t*>(scratch + l.b + l.a);
  const int64_t element = f.quantized ? 1 : 4;
  char* const y = static_cast<char*>(f.y);
  f.ld = kQPanel;
  f.offset = no_offset;
  f.n = kQPanel;
  QFolded folded[kQMaxPanels];
  if (!f.sums) std::fill(std::begin(folded), std::end(folded), q_fold(f));
  QTileCall call{};
  call.taps = 1;
  call.kc = s.k;
  call.g1 = s.k / kQGroup;
  call.tail = s.k % kQGroup != 0;
  call.ldy = f.ldy * element;
  call.fetch = scratch;
  const int64_t blocks = ceil_div(m1 - m0, kBlockRows);
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = m0 + (m1 - m0) * block / blocks, rows = m0 + (m1 - m0) * (block + 1) / blocks - begin;
    const Tiles tiles(rows, p.table->wide_rows);
    for (int64_t i = 0; i < rows; ++i) {
      rows_of_a[i] = a + (begin + i) * s.k;
      of_row[i] = static_cast<int32_t>(128 - p.b_zero) * p.table->row_sum(rows_of_a[i], s.k);
    }
    for (int64_t panel = 0; panel < l.panels; panel += call.panels) {
      const int64_t left = l.panels - panel, columns = s.n - panel * kQPanel;
      call.panels = left >= kQMaxPanels ? kQMaxPanels : left >= 2 ? 2 : 1;
      call.panel_bytes = call.panels > 1 ? panel_bytes : 0;
      call.panel_sums = rows * kQPanel;
      call.w = packed + panel * panel_bytes;
      p.kernel->start(of_row, rows, start + panel * kQPanel, call.panels, acc);
      const int64_t last = call.panels - 1, in_last = std::min(kQPanel, columns - last * kQPanel);
      folded[last].columns = static_cast<int32_t>(in_last);
      call.folded = !f.sums && (f.quantized || in_last == kQPanel) ? folded : nullptr;
      call.a = rows_of_a;
      call.acc = acc;
      char* const to = y + ((row + begin) * f.ldy + panel * kQPanel) * element;
      call.y = reinterpret_cast<uint8_t*>(to);
      for (const auto& [count, height] : tiles.runs()) {
        if (count == 0) continue;
        call.tiles = count;
        call.tile_pointers = height;
        p.table->wide[height](call);
        call.a += count * height;
        call.acc += count * height * kQPanel;
        call.y += count * height * call.ldy;
      }
      folded[last].columns = kQPanel;
      for (int64_t i = 0; !call.folded && i <= last; ++i) {
        f.acc = acc + i * call.panel_sums;
        f.rows = rows;
        f.n = i < last ? kQPanel : in_last;
        f.y = to + i * kQPanel * element;
        p.table->finish(f);
      }
    }
  }
}

void reference(const Params& p, const Shape& s, const uint8_t* a, const uint8_t* b, QFinishCall f, int64_t row) {
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      int64_t sum = 0;
      for (int64_t d = 0; d < s.k; ++d) sum += (a[i * s.k + d] - p.a_zero) * (b[d * s.n + j] - p.b_zero);
      QFinishCall column = f;  // one scale for all columns: each is the first one of its own
      const size_t at = static_cast<size_t>((row + i) * f.ldy + j) * (f.quantized ? 1 : sizeof(float));
      column.y = static_cast<char*>(f.y) + at;
      q_reference_element(column, sum, 0, 0);
    }
  }
}

// With what only a run knows.
Params bound(const Params& fixed, const Tensor* in, int n_in) {
  Params p = fixed;
  if (present(in, n_in, kScale)) std::fill(std::begin(p.scale), std::end(p.scale), *in[kScale].as<const float>());
  if (present(in, n_in, kAZero)) p.a_zero = *in[kAZero].as<const uint8_t>();
  if (present(in, n_in, kBZero)) p.b_zero = *in[kBZero].as<const uint8_t>();
  return p;
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params p = bound(*static_cast<const Params*>(params), in, n_in);
  const Tensor &a = in[0], &b = in[1], &y = out[0];
  if (has_no_elements(y)) return MRT_OK;
  const Shape s = shape_of(in);
  const int64_t batch = y.extent(0, y.ndim - 2);
  const QFinishCall finish = finish_of(p, y, s.n);
  const auto matrix_a = [&](int64_t i) { return a.as<const uint8_t>() + matrix_of(a, y, i) * s.m * s.k; };
  const auto matrix_b = [&](int64_t i) { return b.as<const uint8_t>() + matrix_of(b, y, i) * s.k * s.n; };
  if (p.kernel == nullptr || s.k > kMaxDepth) {
    for (int64_t i = 0; i < batch; ++i) reference(p, s, matrix_a(i), matrix_b(i), finish, i * s.m);
    return MRT_OK;
  }
  const Layout l = layout_of(s);
  const bool bytes = in_bytes(p, s);
  const int64_t threads = ctx.pool ? ctx.threads : 1;
  const double work = static_cast<double>(s.m * s.n) * static_cast<double>(s.k);
  const int64_t wanted = threads > 1 && batch < 4 * threads ? s.m : pieces_to_leave(ctx, work);
  const int64_t blocks = std::min(ceil_div(s.m, kBlockRows), wanted);
  const auto own = [&](int64_t worker) {
    return static_cast<char*>(ctx.scratch) + static_cast<size_t>(worker) * static_cast<size_t>(l.all());
  };
  // A worker's pieces lie side by side, so it packs most b once.
  for (int64_t w = 0; w < threads; ++w) *reinterpret_cast<const uint8_t**>(own(w)) = nullptr;
  parallel_items(ctx, batch * blocks, threads, [&](int64_t worker, int64_t item) {
    const int64_t product = item / blocks, block = item % blocks;
    const uint8_t** const packed = reinterpret_cast<const uint8_t**>(own(worker));
    char* const rest = own(worker) + Layout::kHeader;
    if (*packed != matrix_b(product)) {
      *packed = matrix_b(product);
      if (bytes) {
        pack_bytes(p, s, l, *packed, reinterpret_cast<int8_t*>(rest));
      } else {
        pack(p, s, l, *packed, reinterpret_cast<int16_t*>(rest));
      }
    }
    (bytes ? bytes_of_product : rows_of_product)(p, s, l, matrix_a(product), s.m * block / blocks,
                                                 s.m * (block + 1) / blocks, finish, product * s.m, rest);
  });
  return MRT_OK;
}

double flops(const void*, const Tensor* in, int, const Tensor* out, int) {
  return 2.0 * element_count(out[0]) * static_cast<double>(shape_of(in).k);
}

}  // namespace

const Operator kOperator_matmul_u8 = {&kContract, kQMatmul.rows, sizeof(Params), prepare, check, run, scratch, flops};

}  // namespace mrt
