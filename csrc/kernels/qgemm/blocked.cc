// Cache blocking of 8-bit products: kernels/gemm/blocked.cc with a quarter of the bytes. Sums of a block of rows, 16
// columns wide, wait in L1 until they are complete; the finish then runs over the block.
#include "kernels/qgemm/blocked.h"

#include <cstring>
#include <new>

#include "kernels/checks.h"
#include "kernels/gemm/pieces.h"
#include "kernels/qgemm/pieces.h"

namespace mrt {
namespace {

constexpr int64_t kStretch = 6 * kQSegment;    // groups: 24 KiB of weights
constexpr int64_t kRowBlockBytes = 192 << 10;  // of A
constexpr int64_t kMinRows = 32;
constexpr int64_t kRowsOfSums = 96;      // 6 KiB of sums
constexpr int64_t kMaxBlockRows = 512;   // where sums stay in registers
constexpr int64_t kWideBlockRows = 240;  // where those of panels side by side mostly do
constexpr int64_t kPointerBytes = 16 << 10;
constexpr int64_t kRowsInOrder = 24;       // so many pay for putting their weights in order; measured on Zen 5,
constexpr int64_t kRowsOfOneInOrder = 64;  // and where one panel is done at a time
// Weights of a thread cost it as much as so many rows more; and what pays for a second thread, of products with those
// rows: two microseconds. Measured on Zen 5.
constexpr int64_t kMoreRows = 16;
constexpr double kWorthWide = 1 << 20, kWorthwhile = 1 << 18;
constexpr int64_t kStretchBytes = (kStretch + 1) * kQPanel * kQGroup;  // with the last part of a tap

int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

int64_t block_limit(int64_t taps) {
  return max64(kQMaxRows, min64(kMaxBlockRows, kPointerBytes / (8 * max64(1, taps)) / kQMaxRows * kQMaxRows));
}

// A stretch of the depth: whole taps, or groups of one.
struct Stretch {
  int64_t tap, taps, g0, g1;
  bool tail;
};

class Depth {
 public:
  explicit Depth(const QPanelLayout& l) : whole_(l.kc / kQGroup), tail_(l.kc % kQGroup != 0), taps_(l.taps) {
    parts_ = whole_ > kStretch ? ceil_div(whole_, kStretch) : 1;
    each_ = parts_ > 1 ? 1 : max64(1, kStretch / max64(1, l.groups));
    count_ = parts_ > 1 ? taps_ * parts_ : ceil_div(taps_, each_);
  }
  int64_t count() const { return count_; }
  Stretch operator[](int64_t i) const {
    if (parts_ == 1) return {i * each_, min64(each_, taps_ - i * each_), 0, whole_, tail_};
    const int64_t part = i % parts_, begin = part * kStretch;
    return {i / parts_, 1, begin, min64(whole_, begin + kStretch), tail_ && part + 1 == parts_};
  }

 private:
  int64_t whole_;
  bool tail_;
  int64_t taps_, parts_, each_, count_;
};

// Whether panels are done side by side, where rows are more than a few; one only for the sake of its sums of bytes.
bool side_by_side(const QProduct& p) {
  return p.table->wide_rows > 0 && p.m >= kQWideLeast && p.kc >= kQGroup && (p.n > kQPanel || p.finish.sum);
}
// Whether tiles turn their sums into results.
bool folds(const QProduct& p) {
  const bool sums = p.finish.sum && side_by_side(p);
  return p.table->folds && (sums || p.finish.folds() || p.finish.plain_floats()) && !p.w_zero;
}
int32_t tile_rows(const QProduct& p) { return side_by_side(p) ? p.table->wide_rows : p.table->mr; }

int64_t block_rows(const QProduct& p, const QPanelLayout& l) {
  const bool whole = p.finish.quantized || p.n % kQPanel == 0;  // panels
  const bool in_registers = folds(p) && Depth(l).count() == 1 && (side_by_side(p) ? whole : p.n >= kQPanel);
  const int64_t row_bytes = max64(1, p.row_bytes > 0 ? p.row_bytes : p.taps * p.kc);
  const int64_t wanted = max64(kMinRows, kRowBlockBytes / row_bytes / kQMaxRows * kQMaxRows);
  const int64_t most = side_by_side(p) && folds(p) && !in_registers ? kWideBlockRows
                       : in_registers                               ? kMaxBlockRows
                                                                    : kRowsOfSums;
  return min64(wanted, min64(most, block_limit(p.taps))) / tile_rows(p) * tile_rows(p);
}

// What the finish of a panel reads beside the operands.
struct PanelOperands {
  alignas(64) int32_t offset[kQPanel];
  alignas(64) int32_t w_zero[kQPanel];
};

// The finish of the 16 columns from `column` on, of rows from m0 on; `own` is filled in.
void finish_of(const QProduct& p, int64_t m0, int64_t rows, int64_t column, const int32_t* sums, int32_t* acc,
               const int32_t* row_sums, PanelOperands* own, QFinishCall* out) {
  QFinishCall& f = *out;  // written where it stays: a copy of what was just stored waits for it
  f = p.finish;
  f.n = min64(kQPanel, p.n - column % p.n);
  for (int64_t j = 0; j < kQPanel; ++j) {
    own->offset[j] = static_cast<int32_t>(static_cast<uint32_t>(sums[j]) * static_cast<uint32_t>(p.a_zero));
    own->w_zero[j] = p.w_zero && j < f.n ? p.w_zero[column + j] : 0;
  }
  f.acc = acc;
  f.ld = kQPanel;
  f.rows = rows;
  f.offset = own->offset;
  f.w_zero = p.w_zero ? own->w_zero : nullptr;
  f.row_sums = row_sums;
  f.scale += column;
  if (f.bias) f.bias += column;
  if (f.residual) f.residual += m0 * f.ldr + column;
  if (f.bytes) f.bytes += m0 * f.ldr + column;
  f.y = static_cast<char*>(f.y) + (m0 * f.ldy + column) * (f.quantized ? 1 : 4);
}

// Whether most windows of a panel are ordered.
bool mostly_ordered(const QPanelLayout& l, const QMasks* masks) {
  int64_t ordered = 0;
  for (int64_t s = 0; s < l.taps * l.segments; ++s) ordered += __builtin_popcountll(masks[s].ordered & kQFirst);
  return 2 * ordered > l.taps * (l.kc / (kQGroup * kQWindow));
}

// Makes the call one of its stretch alone, whose weights lie in `room` with all k's in order.
void put_in_order(const QTileTable& table, QTileCall* call, int8_t* room) {
  static const QMasks kNone[kStretch / kQSegment] = {};
  const int64_t bytes = kQPanel * kQGroup, groups = call->g1 - call->g0, windows = groups / kQWindow;
  const int64_t whole = windows * kQWindow * bytes;
  for (int64_t i = 0; i < call->panels; ++i) {
    for (int64_t t = 0; t < call->taps; ++t) {
      const int64_t group = t * call->tap_orders + call->g0;
      const int8_t* const from = call->w + i * call->panel_bytes + group * bytes;
      const char* const orders = reinterpret_cast<const char*>(call->orders + group) + i * call->panel_bytes;
      int8_t* const to = room + i * kStretchBytes + t * call->tap_bytes;
      table.in_order(from, reinterpret_cast<const QOrder*>(orders), windows, to);
      std::memcpy(to + whole, from + whole, static_cast<size_t>((groups + call->tail) * bytes - whole));
    }
  }
  call->a_offset += call->g0 * kQGroup;
  call->kc -= call->g0 * kQGroup;
  call->g1 = groups;
  call->g0 = 0;
  call->w = room;
  call->masks = kNone;
  call->tap_masks = 0;
  call->panel_bytes = call->panels > 1 ? kStretchBytes : 0;
}

// Some of one group, from `panel` on, side by side if `wide`, else one; `then`: the one that is read after them.
struct Panels {
  int64_t panel, count, then;
  bool wide;
};

// Those from `panel` on, before p1, that are done together: four, two or one.
Panels panels_from(const QProduct& p, bool wide, int64_t panel, int64_t p1) {
  const int64_t group = ceil_div(p.n, kQPanel), left = min64(p1 - panel, group - panel % group);
  const int64_t count = !wide ? 1 : left >= kQMaxPanels ? kQMaxPanels : left >= 2 ? 2 : 1;
  return {panel, count, panel + count, wide};
}

// The masks of a panel.
const QMasks* masks_of(const QProduct& p, const QPanelLayout& l, int64_t panel) {
  return reinterpret_cast<const QMasks*>(p.w + panel * l.bytes + l.masks_at);
}

// Whether so many rows are done in wide tiles. Few rows are where panels (those like `panel`) need no other order and
// no tile is low.
bool in_wide_tiles(const QProduct& p, const QPanelLayout& l, int64_t rows, int64_t panel) {
  if (!side_by_side(p) || Tiles(rows, p.table->wide_rows).height < kQWideLeast) return false;
  return rows >= kRowsInOrder || !mostly_ordered(l, masks_of(p, l, panel));
}

// Whether the weights of the panels are put in order first: tiles of several need that where any window is ordered.
bool put_in_order_first(const QProduct& p, const QPanelLayout& l, int64_t rows, const Panels& panels) {
  if (!panels.wide) {
    return p.table->in_order && rows >= kRowsOfOneInOrder && mostly_ordered(l, masks_of(p, l, panels.panel));
  }
  for (int64_t i = 0; i < panels.count; ++i) {
    const QMasks* const masks = masks_of(p, l, panels.panel + i);
    for (int64_t s = 0; s < l.taps * l.segments; ++s) {
      if (masks[s].ordered & kQFirst) return true;
    }
  }
  return false;
}

void panel_block(const QProduct& p, const QPanelLayout& l, int64_t m0, const Tiles& tiles, const Panels& panels,
                 bool more, const uint8_t* const* pointers, const int32_t* row_sums, int32_t* acc, int8_t* room) {
  const int64_t panel = panels.panel, group_panels = ceil_div(p.n, kQPanel), group = panel / group_panels;
  const char* const packed = p.w + panel * l.bytes;
  const int64_t column = group * p.n + panel % group_panels * kQPanel;
  const Depth depth(l);
  const bool wide = panels.wide, in_order = put_in_order_first(p, l, tiles.total(), panels);
  PanelOperands own[kQMaxPanels];
  QFinishCall finish[kQMaxPanels];
  QFolded folded[kQMaxPanels];
  QTileCall call{};
  call.panels = panels.count;
  call.sums = reinterpret_cast<const int32_t*>(packed);
  call.panel_sums = tiles.total() * kQPanel;
  bool in_tiles = folds(p) && (wide || !p.finish.sum);
  for (int64_t i = 0; i < panels.count; ++i) {
    finish_of(p, m0, tiles.total(), column + i * kQPanel, reinterpret_cast<const int32_t*>(packed + i * l.bytes),
              acc + i * call.panel_sums, row_sums, &own[i], &finish[i]);
    in_tiles = in_tiles && (finish[i].n == kQPanel || (wide && finish[i].quantized));
  }
  for (int64_t i = 0; in_tiles && i < panels.count; ++i) new (&folded[i]) QFolded(q_fold(finish[i]));
  call.ldy = finish->ldy * (finish->quantized ? 1 : 4);
  call.ldr = finish->ldr;
  call.tap_bytes = l.groups * kQPanel * kQGroup;
  call.tap_orders = l.groups;
  // Every tile fetches its share of the next panels.
  const int64_t steps = tiles.count * l.taps * (l.kc / (wide ? kQGroup : kQGroup * kQWindow));
  call.fetch = more ? p.w + panels.then * l.bytes : packed;
  call.fetch_step = more && steps > 0 ? ceil_div(panels.count * l.bytes, steps) : 0;
  const int64_t parts = wide && !in_order ? 1 : max64(1, depth.count());
  for (int64_t s = 0; s < parts; ++s) {
    const Stretch part = wide && !in_order   ? Stretch{0, l.taps, 0, l.kc / kQGroup, l.kc % kQGroup != 0}
                         : depth.count() > 0 ? depth[s]
                                             : Stretch{};
    call.first = s == 0;
    call.folded_start = in_tiles && s == 0 ? folded : nullptr;
    call.folded = in_tiles && s + 1 >= parts ? folded : nullptr;
    call.kc = l.kc;
    call.a_offset = group * p.group_a;
    call.taps = part.taps;
    call.g0 = part.g0;
    call.g1 = part.g1;
    call.tail = part.tail;
    call.panel_bytes = panels.count > 1 ? l.bytes : 0;
    call.w = reinterpret_cast<const int8_t*>(packed + l.weights_at) + part.tap * call.tap_bytes;
    call.masks = masks_of(p, l, panel) + part.tap * l.segments;
    call.tap_masks = l.segments;
    call.orders = reinterpret_cast<const QOrder*>(packed + l.orders_at) + part.tap * l.groups;
    if (in_order) put_in_order(*p.table, &call, room);
    int64_t row = 0;
    for (const auto& [count, rows] : tiles.runs()) {
      if (count == 0) continue;
      call.tiles = count;
      call.tile_pointers = rows * p.taps;
      call.a = pointers + row * p.taps + part.tap * rows;
      call.acc = acc + row * kQPanel;
      call.y = static_cast<uint8_t*>(finish->y) + row * call.ldy;
      call.residual = finish->residual ? finish->residual + row * finish->ldr : nullptr;
      call.bytes = finish->bytes ? finish->bytes + row * finish->ldr : nullptr;
      (wide ? p.table->wide : p.table->tile)[rows](call);
      call.fetch += count * (wide ? call.taps * (call.g1 - call.g0) * call.fetch_step : call.tile_fetch());
      row += count * rows;
    }
  }
  for (int64_t i = 0; !in_tiles && i < panels.count; ++i) p.table->finish(finish[i]);
}

// Of each row of a block, what all taps of a group see less the zero point of each.
void sum_rows(const QProduct& p, const Tiles& tiles, const uint8_t* const* pointers, int64_t offset, int32_t* out) {
  const uint32_t zeros = static_cast<uint32_t>(p.taps * p.kc) * static_cast<uint32_t>(p.a_zero);
  for (const auto& [count, rows] : tiles.runs()) {
    for (int64_t tile = 0; tile < count; ++tile, pointers += rows * p.taps) {
      for (int64_t i = 0; i < rows; ++i) {
        uint32_t sum = 0;
        for (int64_t t = 0; t < p.taps; ++t) {
          sum += static_cast<uint32_t>(p.table->row_sum(pointers[t * rows + i] + offset, p.kc));
        }
        *out++ = static_cast<int32_t>(sum - zeros);
      }
    }
  }
}

size_t pointer_bytes(int64_t taps) {
  return align64(static_cast<size_t>(block_limit(taps)) * static_cast<size_t>(taps) * sizeof(uint8_t*));
}

// Of the sums of a block: of rows of one panel, or of fewer rows of several side by side.
int64_t sums_of(int64_t taps) {
  const int64_t rows = block_limit(taps);
  return max64(rows, kQMaxPanels * min64(rows, kWideBlockRows)) * kQPanel;
}
size_t sum_bytes(int64_t taps) {
  return align64(static_cast<size_t>(sums_of(taps) + block_limit(taps)) * sizeof(int32_t));
}

}  // namespace

void q_panel_sums(const QTileTable& table, const QPanelLayout& l, const char* packed, int64_t panels,
                  const uint8_t* const* row_at, int64_t rows, int32_t* acc) {
  if (rows == 1 && table.row) {
    return table.row({row_at[0], l.kc, panels, packed, l.bytes, l.orders_at, l.weights_at, acc});
  }
  const Tiles tiles(rows, table.mr);
  QTileCall call{};
  call.taps = 1;
  call.kc = l.kc;
  call.g1 = l.kc / kQGroup;
  call.tail = l.kc % kQGroup != 0;
  call.first = true;
  for (int64_t p = 0; p < panels; ++p, packed += l.bytes) {
    call.w = reinterpret_cast<const int8_t*>(packed + l.weights_at);
    call.sums = reinterpret_cast<const int32_t*>(packed);
    call.masks = reinterpret_cast<const QMasks*>(packed + l.masks_at);
    call.orders = reinterpret_cast<const QOrder*>(packed + l.orders_at);
    call.fetch = packed;
    const uint8_t* const* a = row_at;
    for (const auto& [count, height] : tiles.runs()) {
      if (count == 0) continue;
      call.tiles = count;
      call.tile_pointers = height;
      call.a = a;
      call.acc = acc;
      table.tile[height](call);
      a += count * height;
      acc += count * height * kQPanel;
    }
  }
}

size_t q_product_scratch(int64_t taps) {
  return pointer_bytes(taps) + sum_bytes(taps) + static_cast<size_t>(kQMaxPanels * kStretchBytes);
}

void q_product_block(const QProduct& p, int64_t m0, int64_t m1, int64_t p0, int64_t p1, void* scratch) {
  if (m0 >= m1 || p0 >= p1) return;
  const uint8_t** const pointers = static_cast<const uint8_t**>(scratch);
  int32_t* const acc = reinterpret_cast<int32_t*>(static_cast<char*>(scratch) + pointer_bytes(p.taps));
  int32_t* const row_sums = acc + sums_of(p.taps);
  int8_t* const room = reinterpret_cast<int8_t*>(acc) + sum_bytes(p.taps);
  const QPanelLayout layout = q_panel_layout(p.taps, p.kc);
  const int64_t group_panels = ceil_div(p.n, kQPanel), all_panels = max64(1, p.groups) * group_panels;
  const int32_t mr = tile_rows(p);
  const int64_t blocks = ceil_div(m1 - m0, block_rows(p, layout)), tiles = ceil_div(m1 - m0, mr);
  for (int64_t b = 0, begin = m0; b < blocks; ++b) {
    const int64_t end = min64(m1, m0 + tiles * (b + 1) / blocks * mr);
    if (end <= begin) continue;
    const bool wide = in_wide_tiles(p, layout, end - begin, p0);
    const Tiles in_block(end - begin, wide ? mr : p.table->mr);
    fill_pointers(p, in_block, begin, pointers);
    Pace pace(p.watch,
              2.0 * static_cast<double>((end - begin) * p.taps * p.kc * kQPanel * panels_from(p, wide, p0, p1).count));
    for (int64_t panel = p0; panel < p1;) {
      if (pace.stop()) return;
      const Panels panels = panels_from(p, wide, panel, p1);
      panel = panels.then;
      if (p.w_zero && (panels.panel == p0 || panels.panel % group_panels == 0)) {
        sum_rows(p, in_block, pointers, panels.panel / group_panels * p.group_a, row_sums);
      }
      panel_block(p, layout, begin, in_block, panels, panels.then < all_panels, pointers, row_sums, acc, room);
    }
    begin = end;
  }
}

void run_q_product(const QProduct& product, KernelContext& ctx, void* scratch) {
  QProduct p = product;
  p.watch = ctx.watch;
  const int64_t panels = max64(1, p.groups) * ceil_div(p.n, kQPanel), threads = ctx.pool ? ctx.threads : 1;
  if (p.m == 0 || panels == 0) return;
  const bool side = side_by_side(p);
  const double weights = static_cast<double>(panels * kQPanel) * static_cast<double>(p.taps * p.kc);
  const double work = static_cast<double>(p.m + kMoreRows) * weights;
  if (threads <= 1 || work < (side ? kWorthWide : kWorthwhile)) {
    q_product_block(p, 0, p.m, 0, panels, scratch);
    if (ctx.watch != nullptr && ctx.watch->stopped()) throw_stopped();
    return;
  }
  const QPieces pieces(p.m, tile_rows(p), panels, side ? kQMaxPanels : 1, kMoreRows, threads);
  const size_t bytes = align64(q_product_scratch(p.taps));
  parallel_items(ctx, pieces.count(), threads, [&](int64_t worker, int64_t item) {
    const QPieces::Piece x = pieces[item];
    q_product_block(p, x.m0, x.m1, x.p0, x.p1, static_cast<char*>(scratch) + static_cast<size_t>(worker) * bytes);
  });
}

}  // namespace mrt
