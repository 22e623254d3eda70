// Cache blocking. The loops, from the outside: blocks of rows; stretches of the depth, so that a block's part of A
// stays in L2; panels of 16 columns, whose part of the weights stays in L1; tiles of rows. So weights are read once a
// block of rows, and unfinished sums wait in y between two stretches. (K. Goto and R. van de Geijn, "Anatomy of
// High-Performance Matrix Multiplication", 2008.)
#include "kernels/gemm/blocked.h"

#include <algorithm>
#include <cstring>

#include "kernels/checks.h"
#include "kernels/gemm/pieces.h"

namespace mrt {
namespace {

constexpr int64_t kMaxBlockRows = 384;
constexpr int64_t kPointerBytes = 16 << 10;  // of row pointers a block
constexpr int64_t kCopyPanels = 8;           // panels that a copy of A has to serve to be worth it

int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

// Rows of a block: a multiple of mr, between 8 tiles (or what the pointers' scratch holds) and kMaxBlockRows.
int64_t block_limit(int32_t mr, int64_t taps) {
  const int64_t pointers = kPointerBytes / (8 * taps) / mr * mr;
  return max64(mr, min64(kMaxBlockRows / mr * mr, pointers));
}

// A stretch of the depth: whole taps [tap, tap + taps), or part of one.
struct Stretch {
  int64_t tap, taps, offset, kc;
};

class Depth {
 public:
  Depth(int64_t taps, int64_t kc, const Blocking& blocking) : taps_(taps), kc_(kc) {
    if (kc >= blocking.depth) {
      parts_ = ceil_div(kc, blocking.max_stretch());
      count_ = taps * parts_;
    } else {
      count_ = max64(1, ceil_div(taps * kc, blocking.max_stretch()));
      count_ = min64(count_, taps);
    }
  }
  int64_t count() const { return count_; }
  Stretch operator[](int64_t i) const {
    if (parts_ > 0) {
      const int64_t part = i % parts_, begin = cut(part), end = part + 1 < parts_ ? cut(part + 1) : kc_;
      return {i / parts_, 1, begin, end - begin};
    }
    const int64_t begin = taps_ * i / count_, end = taps_ * (i + 1) / count_;
    return {begin, end - begin, 0, kc_};
  }

 private:
  int64_t cut(int64_t part) const { return kc_ * part / parts_ / 2 * 2; }  // even: a byte may hold the weights of two

  int64_t taps_, kc_, count_, parts_ = 0;
};

// Rows of a block: a multiple of mr, between 8 tiles (or what the pointers' scratch holds) and kMaxBlockRows.
int64_t block_rows(const Product& p) {
  const int64_t mr = p.table->mr;
  const int64_t row = p.row_bytes > 0 ? p.row_bytes : p.taps * p.kc * 4;
  const int64_t stretch = max64(1, row / Depth(p.taps, p.kc, p.blocking).count());
  return min64(max64(8 * mr, p.blocking.row_bytes / stretch / mr * mr), block_limit(p.table->mr, p.taps));
}

// The rows of A lie as far apart as y's depth, in few sets of a cache if that is a power of two: a stretch of them is
// copied where enough panels use it.
bool may_copy(int64_t taps, int64_t kc, const Blocking& blocking) { return taps == 1 && kc > blocking.max_stretch(); }
size_t pointer_bytes(int32_t mr, int64_t taps) {
  return align64(static_cast<size_t>(block_limit(mr, taps)) * static_cast<size_t>(taps) * sizeof(float*));
}

void copy_stretch(const Product& p, const Stretch& part, int64_t m0, int64_t rows, float* to, const float** pointers) {
  for (int64_t i = 0; i < rows; ++i, to += part.kc) {
    std::memcpy(to, p.a + (m0 + i) * p.lda + part.offset, static_cast<size_t>(part.kc) * sizeof(float));
    pointers[i] = to;
  }
}

// One block of rows: its tiles and where their rows of A are.
struct RowBlock {
  Tiles tiles;
  int64_t m0;
  const float* const* pointers;
  bool copied;  // the pointers are to the stretch, not to the row
};

// The weights of a panel, from where a stretch begins.
const float* weights_of(const Product& p, int64_t panel, const Stretch& part) {
  const int64_t row = part.tap * p.kc + part.offset;
  return p.ldw > 0 ? p.w + panel * p.panel_step + row * p.ldw : p.w + (panel * p.taps * p.kc + row) * kPanel;
}

// How many tiles from the first on are alike, of `tiles` with `pointers` each, `step` apart: either all of a tile's
// pointers are to `zeros`, which `*only` says, or not.
int64_t alike(const float* const* a, int64_t tiles, int64_t step, int64_t pointers, const float* zeros, bool* only) {
  const auto nothing = [=](int64_t t) {
    const float* const* const begin = a + t * step;
    return std::all_of(begin, begin + pointers, [=](const float* row) { return row == zeros; });
  };
  *only = nothing(0);
  int64_t n = 1;
  while (n < tiles && nothing(n) == *only) ++n;
  return n;
}

// `panels` of the weights, or floats or not, from one on over one stretch of a block of rows. `next`: the packed
// weights that are read after it; null if not known.
void multiply_panel(const Product& p, const RowBlock& block, const Stretch& part, bool first, bool last, int64_t panel,
                    int64_t panels, float* scratch, const float* next) {
  const Epilogue& e = *p.epilogue;
  const int64_t group_panels = panels_of(p.n), group = panel / group_panels;
  const int64_t column = group * p.n + panel % group_panels * kPanel;
  const bool after_tile = !e.clamp_only();  // the activation runs over the block when its sums are complete
  float* const c = p.c + block.m0 * p.ldc + column;
  const float* const r = p.residual ? p.residual + block.m0 * p.ldr + column : nullptr;
  const float* const tile_residual = after_tile && e.residual_after ? nullptr : r;
  TileCall call{};
  call.ldw = p.ldw > 0 ? p.ldw : kPanel;
  call.w = p.unpack ? scratch : weights_of(p, panel, part);
  call.ldc = p.ldc;
  call.ldr = p.ldr;
  call.n = min64(panels * kPanel, p.n - panel % group_panels * kPanel);
  call.bias = p.bias ? p.bias + column : nullptr;
  call.lo = e.lo;
  call.hi = e.hi;
  call.residual_after = e.residual_after;
  call.first = first;
  call.last = last;
  call.taps = part.taps;
  call.kc = part.kc;
  call.a_offset = block.copied ? 0 : group * p.group_a + part.offset;
  // Each tile fetches its share of what the first one of the next panel will read.
  call.fetch = reinterpret_cast<const char*>(next ? next : call.w);
  call.fetch_step = next ? ceil_div(64, block.tiles.count) : 0;
  const bool skips = p.zeros && !first && !last;  // those begin and finish the sums
  const float* const* a = block.pointers;
  int64_t row = 0;
  for (const auto& [tiles, rows] : block.tiles.runs()) {
    call.tile_pointers = rows * p.taps;
    for (int64_t left = tiles; left > 0; left -= call.tiles) {
      call.a = a + part.tap * rows;
      bool padding = false;  // far from the image, as positions of a dilated filter are
      call.tiles = skips ? alike(call.a, left, call.tile_pointers, part.taps * rows, p.zeros, &padding) : left;
      call.c = c + row * p.ldc;
      call.residual = tile_residual ? tile_residual + row * p.ldr : nullptr;
      if (p.unpack && (row == 0 || p.unpack_each)) {
        call.tiles = 1;
        p.unpack({p.packed, panel, panels, part.tap * p.kc + part.offset, row == 0, scratch}, call, rows);
      } else if (!padding) {
        p.table->tile[rows](call);
      }
      call.fetch += call.tiles * part.taps * part.kc * call.fetch_step;
      a += call.tiles * call.tile_pointers;
      row += call.tiles * rows;
    }
  }
  if (last && after_tile) {
    p.epilogue_table->apply(e, c, p.ldc, block.tiles.total(), call.n, e.residual_after ? r : nullptr, p.ldr);
  }
}

}  // namespace

const Attribute kBlockingHints[2] = {hint("depth", 64, 4096), hint("rows_kib", 16, 4096)};

Status decode_blocking(const Attrs& attrs, Blocking* out) {
  int64_t rows_kib = out->row_bytes >> 10;
  MRT_TRY(hint_int(attrs, "depth", &out->depth));
  MRT_TRY(hint_int(attrs, "rows_kib", &rows_kib));
  out->row_bytes = rows_kib << 10;
  return Status();
}

size_t product_scratch(int32_t mr, int64_t taps, int64_t kc, const Blocking& blocking, bool unpacks) {
  // block_rows' least and most; a stretch is two floats longer than the mean of them at most.
  const int64_t copy = max64(8 * mr * blocking.max_stretch(), blocking.row_bytes / 4 + kMaxBlockRows);
  const int64_t stretch = min64(taps * kc, blocking.max_stretch()) + 2;
  return pointer_bytes(mr, taps) +
         (may_copy(taps, kc, blocking) ? align64(static_cast<size_t>(copy) * sizeof(float)) : 0) +
         (unpacks ? static_cast<size_t>(stretch * kPanel) * sizeof(float) : 0);
}

void product_block(const Product& p, int64_t m0, int64_t m1, int64_t p0, int64_t p1, void* scratch) {
  if (m0 >= m1 || p0 >= p1) return;
  const float** const pointers = static_cast<const float**>(scratch);
  float* const copy = reinterpret_cast<float*>(static_cast<char*>(scratch) + pointer_bytes(p.table->mr, p.taps));
  float* const unpacked =
      reinterpret_cast<float*>(static_cast<char*>(scratch) + product_scratch(p.table->mr, p.taps, p.kc, p.blocking));
  const bool copied = may_copy(p.taps, p.kc, p.blocking) && !p.rows_of && p.groups <= 1 && p1 - p0 >= kCopyPanels;
  const Depth depth(p.taps, p.kc, p.blocking);
  const int64_t blocks = ceil_div(m1 - m0, block_rows(p));
  const int64_t all_tiles = ceil_div(m1 - m0, p.table->mr);
  int64_t begin = m0;
  for (int64_t b = 0; b < blocks; ++b) {
    // Blocks of nearly equal numbers of tiles.
    const int64_t end = b + 1 == blocks ? m1 : min64(m1, m0 + all_tiles * (b + 1) / blocks * p.table->mr);
    if (end <= begin) continue;
    const RowBlock block{Tiles(end - begin, p.table->mr), begin, pointers, copied};
    if (!copied) fill_pointers(p, block.tiles, begin, pointers);
    for (int64_t s = 0; s < depth.count(); ++s) {
      const Stretch part = depth[s];
      Pace pace(p.watch, 2.0 * static_cast<double>((end - begin) * part.taps * part.kc * kPanel));
      if (copied) copy_stretch(p, part, begin, block.tiles.total(), copy, pointers);
      for (int64_t panel = p0, panels = 1; panel < p1; panel += panels) {
        if (pace.stop()) return;
        const bool last = s + 1 == depth.count();
        panels = p.unpack_each ? min64(2, p1 - panel) : 1;
        const float* const next = p.ldw > 0 || p.unpack ? nullptr
                                  : panel + 1 < p1      ? weights_of(p, panel + 1, part)
                                  : !last               ? weights_of(p, p0, depth[s + 1])
                                                        : nullptr;
        multiply_panel(p, block, part, s == 0, last, panel, panels, unpacked, next);
      }
    }
    begin = end;
  }
}

void run_product(const Product& product, KernelContext& ctx, void* scratch) {
  Product p = product;
  p.watch = ctx.watch;
  const int64_t panels = max64(1, p.groups) * panels_of(p.n), threads = ctx.pool ? ctx.threads : 1;
  if (p.m == 0 || panels == 0) return;
  const double work =
      static_cast<double>(p.m) * static_cast<double>(panels * kPanel) * static_cast<double>(p.taps * p.kc);
  if (threads <= 1 || work < 65536.0) {
    product_block(p, 0, p.m, 0, panels, scratch);
    if (ctx.watch != nullptr && ctx.watch->stopped()) throw_stopped();
    return;
  }
  const Pieces pieces(p.m, p.table->mr, ceil_div(p.m, block_rows(p)), panels * kPanel, panels, threads);
  const size_t bytes = product_scratch(p.table->mr, p.taps, p.kc, p.blocking, p.unpack != nullptr);
  parallel_items(ctx, pieces.count(), threads, [&](int64_t worker, int64_t item) {
    const Pieces::Piece x = pieces[item];
    product_block(p, x.m0, x.m1, x.p0, x.p1, static_cast<char*>(scratch) + static_cast<size_t>(worker) * bytes);
  });
}

}  // namespace mrt
