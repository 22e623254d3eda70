// Cache blocking. The loops, from the outside: blocks of rows whose part of A stays in L2; panels of 16 columns;
// stretches of the depth whose weights stay in L1; tiles of rows. So weights are read once a block of rows, and an
// unfinished sum of a block, 16 columns wide, waits in L1 between two stretches.
#include "kernels/gemm/blocked.h"

#include "kernels/checks.h"

namespace mrt {
namespace {

// Measured on Zen 3 (32 KiB L1, 512 KiB L2) for products of 384 to 1536 cubed; the optimum is flat.
constexpr int64_t kDepth = 384;                // floats of depth a stretch: 24 KiB of weights
constexpr int64_t kRowBlockBytes = 256 << 10;  // of A
constexpr int64_t kMaxBlockRows = 384;
constexpr int64_t kPointerBytes = 16 << 10;  // of row pointers a block

int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

// Rows of a block: a multiple of mr, between 8 tiles (or what the pointers' scratch holds) and kMaxBlockRows.
int64_t block_limit(int32_t mr, int64_t taps) {
  const int64_t pointers = kPointerBytes / (8 * taps) / mr * mr;
  return max64(mr, min64(kMaxBlockRows / mr * mr, pointers));
}
int64_t block_rows(const Product& p) {
  const int64_t mr = p.table->mr;
  const int64_t row_bytes = max64(1, p.row_bytes > 0 ? p.row_bytes : p.taps * p.kc * 4);
  const int64_t wanted = max64(8 * mr, kRowBlockBytes / row_bytes / mr * mr);
  return min64(wanted, block_limit(p.table->mr, p.taps));
}

// A block of rows in tiles of nearly equal height: 49 rows are 4 tiles of 6 and 5 of 5, not 8 of 6 and a slow one of 1.
struct Tiles {
  int64_t count, height, taller;  // `taller` tiles have height + 1 rows
  Tiles(int64_t rows, int64_t mr) : count(ceil_div(rows, mr)), height(rows / count), taller(rows % count) {}
  int64_t rows(int64_t i) const { return height + (i < taller); }
};

// A stretch of the depth: whole taps [tap, tap + taps), or part of one.
struct Stretch {
  int64_t tap, taps, offset, kc;
};

class Depth {
 public:
  Depth(int64_t taps, int64_t kc) : taps_(taps), kc_(kc) {
    if (kc >= kDepth) {
      parts_ = ceil_div(kc, kDepth + kDepth / 2);
      count_ = taps * parts_;
    } else {
      count_ = max64(1, ceil_div(taps * kc, kDepth + kDepth / 2));
      count_ = min64(count_, taps);
    }
  }
  int64_t count() const { return count_; }
  Stretch operator[](int64_t i) const {
    if (parts_ > 0) {
      const int64_t part = i % parts_, begin = kc_ * part / parts_, end = kc_ * (part + 1) / parts_;
      return {i / parts_, 1, begin, end - begin};
    }
    const int64_t begin = taps_ * i / count_, end = taps_ * (i + 1) / count_;
    return {begin, end - begin, 0, kc_};
  }

 private:
  int64_t taps_, kc_, count_, parts_ = 0;
};

void fill_pointers(const Product& p, const Tiles& tiles, int64_t m0, const float** out) {
  for (int64_t t = 0; t < tiles.count; ++t) {
    const int64_t rows = tiles.rows(t);
    if (p.rows_of) {
      p.rows_of(p.user, m0, rows, out);
    } else {
      for (int64_t i = 0; i < rows; ++i) out[i] = p.a + (m0 + i) * p.lda;
    }
    out += rows * p.taps;
    m0 += rows;
  }
}

// One panel over a block of rows.
void panel_block(const Product& p, const Tiles& tiles, int64_t m0, int64_t panel, const float* const* pointers) {
  const Epilogue& e = *p.epilogue;
  const int64_t k = p.taps * p.kc, group_panels = panels_of(p.n), group = panel / group_panels;
  const int64_t first = panel % group_panels * kPanel, column = group * p.n + first;
  const Depth depth(p.taps, p.kc);
  const bool after_tile = !e.clamp_only();  // the activation runs over the block when its sums are complete
  TileCall call{};
  call.ldw = p.ldw > 0 ? p.ldw : kPanel;
  const float* const w = p.w + panel * (p.ldw > 0 ? p.panel_step : k * kPanel);
  call.ldc = p.ldc;
  call.ldr = p.ldr;
  call.n = min64(kPanel, p.n - first);
  call.bias = p.bias ? p.bias + column : nullptr;
  call.lo = e.lo;
  call.hi = e.hi;
  call.residual_after = e.residual_after;
  float* const c = p.c + m0 * p.ldc + column;
  const float* const r = p.residual ? p.residual + m0 * p.ldr + column : nullptr;
  const float* const tile_residual = after_tile && e.residual_after ? nullptr : r;
  for (int64_t s = 0; s < depth.count(); ++s) {
    const Stretch part = depth[s];
    call.first = s == 0;
    call.last = s + 1 == depth.count();
    call.taps = part.taps;
    call.kc = part.kc;
    call.a_offset = group * p.group_a + part.offset;
    call.w = w + (part.tap * p.kc + part.offset) * call.ldw;
    const float* const* a = pointers;
    int64_t row = 0;
    for (int64_t t = 0; t < tiles.count; ++t) {
      const int64_t rows = tiles.rows(t);
      call.a = a + part.tap * rows;
      call.c = c + row * p.ldc;
      call.residual = tile_residual ? tile_residual + row * p.ldr : nullptr;
      p.table->tile[rows](call);
      a += rows * p.taps;
      row += rows;
    }
  }
  if (after_tile) {
    const int64_t rows = tiles.height * tiles.count + tiles.taller;
    p.epilogue_table->apply(e, c, p.ldc, rows, call.n, e.residual_after ? r : nullptr, p.ldr);
  }
}

}  // namespace

size_t product_scratch(int32_t mr, int64_t taps) {
  return align64(static_cast<size_t>(block_limit(mr, taps)) * static_cast<size_t>(taps) * sizeof(float*));
}

void product_block(const Product& p, int64_t m0, int64_t m1, int64_t p0, int64_t p1, void* scratch) {
  if (m0 >= m1 || p0 >= p1) return;
  const float** pointers = static_cast<const float**>(scratch);
  const int64_t blocks = ceil_div(m1 - m0, block_rows(p));
  const int64_t all_tiles = ceil_div(m1 - m0, p.table->mr);
  int64_t begin = m0;
  for (int64_t b = 0; b < blocks; ++b) {
    // Blocks of nearly equal numbers of tiles.
    const int64_t end = b + 1 == blocks ? m1 : min64(m1, m0 + all_tiles * (b + 1) / blocks * p.table->mr);
    if (end <= begin) continue;
    const Tiles tiles(end - begin, p.table->mr);
    fill_pointers(p, tiles, begin, pointers);
    for (int64_t panel = p0; panel < p1; ++panel) panel_block(p, tiles, begin, panel, pointers);
    begin = end;
  }
}

void run_product(const Product& p, KernelContext& ctx, void* scratch) {
  const int64_t panels = max64(1, p.groups) * panels_of(p.n), threads = ctx.pool ? ctx.threads : 1;
  if (p.m == 0 || panels == 0) return;
  const double work =
      static_cast<double>(p.m) * static_cast<double>(panels * kPanel) * static_cast<double>(p.taps * p.kc);
  if (threads <= 1 || work < 65536.0) return product_block(p, 0, p.m, 0, panels, scratch);
  // Pieces: rows first, then columns until every thread has a few.
  const int64_t wanted = 4 * threads, mr = p.table->mr;
  const int64_t row_pieces = min64(ceil_div(p.m, 4 * mr), max64(wanted, ceil_div(p.m, block_rows(p))));
  const int64_t column_pieces = min64(panels, ceil_div(wanted, row_pieces));
  const int64_t tiles = ceil_div(p.m, mr);
  const size_t bytes = product_scratch(p.table->mr, p.taps);
  parallel_items(ctx, row_pieces * column_pieces, threads, [&](int64_t worker, int64_t item) {
    const int64_t i = item / column_pieces, j = item % column_pieces;
    product_block(p, min64(p.m, tiles * i / row_pieces * mr), min64(p.m, tiles * (i + 1) / row_pieces * mr),
                  panels * j / column_pieces, panels * (j + 1) / column_pieces,
                  static_cast<char*>(scratch) + static_cast<size_t>(worker) * bytes);
  });
}

}  // namespace mrt
