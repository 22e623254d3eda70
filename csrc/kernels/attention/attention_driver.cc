// The walk over heads, queries and tiles of keys; see attention_driver.h.
//
// One item of work is some queries of all heads that share a key head. Per tile of at most kTileKeys keys, keys and
// values are packed into scratch once and used by all rows of the item, unless these are few; where all keys fit in one
// tile, the packed tile serves the next item of the same head too. A score matrix never exists: six rows of one tile
// are all there is of it.
#include "kernels/attention/attention_driver.h"

#include <cinttypes>
#include <cmath>
#include <cstring>

namespace mrt {
namespace {

constexpr int64_t kTileKeys = 384;  // packed keys and values of 64 columns: 192 KiB, a part of L2
constexpr int64_t kItemRows = 512;  // their running results: 128 KiB at 64 columns
constexpr int64_t kDirectRows = 8;  // so few rows are not worth packing for

int64_t round16(int64_t n) { return (n + 15) / 16 * 16; }

// How the work is cut.
struct Cut {
  int64_t group;            // query heads of a key head
  int64_t queries, chunks;  // queries of an item, items along the queries
  int64_t items;
  int64_t tile, tiles;  // keys of a tile
  bool packed;
};

Cut cut_of(const AttentionProblem& p, int32_t threads) {
  Cut c;
  c.group = p.heads / p.kv_heads;
  const int64_t max_queries = kItemRows / c.group > 0 ? kItemRows / c.group : 1;
  const int64_t wanted = (2 * threads + p.batch * p.kv_heads - 1) / (p.batch * p.kv_heads);
  int64_t queries = p.sq;
  if (threads > 1 && wanted > 1) {
    queries = (p.sq + wanted - 1) / wanted;
    if (queries < 48) queries = p.sq < 48 ? p.sq : 48;
  }
  c.queries = queries < max_queries ? queries : max_queries;
  c.chunks = (p.sq + c.queries - 1) / c.queries;
  c.items = p.batch * p.kv_heads * c.chunks;
  c.tiles = (p.sk + kTileKeys - 1) / kTileKeys;
  c.tile = c.tiles == 0 ? 0 : round16((p.sk + c.tiles - 1) / c.tiles);
  if (c.tile > 0) c.tiles = (p.sk + c.tile - 1) / c.tile;
  c.packed = c.group * c.queries > kDirectRows;
  return c;
}

// The parts of a worker's scratch.
struct Buffers {
  float *k, *v, *s, *q, *columns, *max, *sum, *o;
  size_t bytes;
};

Buffers buffers_of(const AttentionProblem& p, const Cut& c, char* base) {
  Buffers b;
  size_t at = 0;
  const auto take = [&](int64_t floats) {
    float* r = base == nullptr ? nullptr : reinterpret_cast<float*>(base + at);
    at += align64(static_cast<size_t>(floats) * sizeof(float));
    return r;
  };
  const int64_t rows = c.tiles == 1 ? kMaxAttentionRows : c.group * c.queries;
  b.k = take(c.packed ? c.tile * p.d : 0);
  b.v = take(c.packed ? c.tile * round16(p.dv) : 0);
  b.s = take(kMaxAttentionRows * c.tile);
  b.q = take(kMaxAttentionRows * p.d);
  b.columns = take(c.packed ? 0 : kMaxAttentionRows * p.d);
  b.max = take(rows);
  b.sum = take(rows);
  b.o = take(rows * round16(p.dv));
  b.bytes = at;
  return b;
}

struct Item {
  int64_t batch, kv_head, first_query, queries;
};

// Rows of an item: all queries of its first head, then those of the next.
struct Row {
  int64_t head, query;
};
Row row_of(const Cut& c, const Item& item, int64_t r) {
  return {item.kv_head * c.group + r / item.queries, item.first_query + r % item.queries};
}

struct Worker {
  const AttentionKernel* kernel;
  const AttentionProblem& p;
  const Cut& c;
  Buffers b;
  const Item* next = nullptr;  // what this worker does after the current item
  int64_t packed_head = -1;    // batch * kv_heads + kv_head of the tile in scratch, where there is one tile only

  void run(const Item& item);
  void tile(const Item& item, int64_t index, int64_t keys_seen, bool last);
  int rows_of_block(int64_t rest) const;
  void start(AttentionTile* t) const;
  void set_keys(const Item& item, int64_t first_key, AttentionTile* t);
  void set_queries(const Item& item, int64_t r, AttentionTile* t) const;
  void prefetch(const Item& item, int64_t r, int64_t count) const;
  const float* q_row(const Item& item, const Row& row) const {
    return p.q + item.batch * p.q_strides.batch + row.query * p.q_strides.seq + row.head * p.q_strides.head;
  }
  const float* k_row(const Item& item, int64_t n) const {
    return p.k + item.batch * p.k_strides.batch + item.kv_head * p.k_strides.head + n * p.k_strides.seq;
  }
  const float* v_row(const Item& item, int64_t n) const {
    return p.v + item.batch * p.v_strides.batch + item.kv_head * p.v_strides.head + n * p.v_strides.seq;
  }
  const float* mask_row(const Item& item, const Row& row) const {
    return p.mask + item.batch * p.mask_strides[0] + row.head * p.mask_strides[1] + row.query * p.mask_strides[2];
  }
  float* y_row(const Item& item, const Row& row) const {
    return p.y + item.batch * p.y_strides.batch + row.query * p.y_strides.seq + row.head * p.y_strides.head;
  }
};

void prefetch_row(const float* p, int64_t floats) {
  for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(p + i);
}

// Asks for what comes next while the rows [r, r + count) keep the multipliers busy: the next rows of q and y, and this
// block's share of the next head's keys and values. Between two rows of one head lie those of all others; no hardware
// prefetcher sees through that.
void Worker::prefetch(const Item& item, int64_t r, int64_t count) const {
  const int64_t rows = c.group * item.queries;
  for (int64_t i = r + count; i < r + 2 * count && i < rows; ++i) {
    const Row row = row_of(c, item, i);
    prefetch_row(q_row(item, row), p.d);
    prefetch_row(y_row(item, row), p.dv);
  }
  if (next == nullptr || !c.packed || next->first_query != 0) return;
  const int64_t keys = c.tile < p.sk ? c.tile : p.sk;
  for (int64_t n = r * keys / rows; n < (r + count) * keys / rows; ++n) {
    prefetch_row(k_row(*next, n), p.d);
    prefetch_row(v_row(*next, n), p.dv);
  }
}

// Rows that have seen nothing yet.
void Worker::start(AttentionTile* t) const {
  for (int i = 0; i < t->rows; ++i) {
    t->max[i] = -INFINITY;
    t->sum[i] = 0;
  }
}

// Where the keys and values of the tile are: packed into scratch, unless they are there still, or as they came.
void Worker::set_keys(const Item& item, int64_t first_key, AttentionTile* t) {
  t->k = k_row(item, first_key);
  t->v = v_row(item, first_key);
  t->k_stride = p.k_strides.seq;
  t->v_stride = p.v_strides.seq;
  t->packed = c.packed;
  if (!c.packed) return;
  const int64_t head = item.batch * p.kv_heads + item.kv_head;
  if (c.tiles > 1 || packed_head != head) {
    kernel->pack_k(t->k, t->k_stride, t->keys, p.d, p.scale, b.k);
    kernel->pack_v(t->v, t->v_stride, t->keys, p.dv, b.v);
    packed_head = head;
  }
  t->k = b.k;
  t->v = b.v;
}

// Rows of one head lie at one distance and are used where they are; a block that reaches into the next head is copied.
void Worker::set_queries(const Item& item, int64_t r, AttentionTile* t) const {
  const Row from = row_of(c, item, r), to = row_of(c, item, r + t->rows - 1);
  t->q = q_row(item, from);
  t->q_stride = p.q_strides.seq;
  if (from.head == to.head) return;
  for (int i = 0; i < t->rows; ++i) {
    const float* q = q_row(item, row_of(c, item, r + i));
    std::memcpy(b.q + i * p.d, q, static_cast<size_t>(p.d) * sizeof(float));
  }
  t->q = b.q;
  t->q_stride = p.d;
}

// Packed: full blocks, and the last two of about the same size. As they are: a block costs as much as a full one.
int Worker::rows_of_block(int64_t rest) const {
  const int64_t max_rows = c.packed ? kernel->rows : kernel->direct_rows;
  return static_cast<int>(rest <= max_rows ? rest : c.packed && rest < 2 * max_rows ? (rest + 1) / 2 : max_rows);
}

void Worker::tile(const Item& item, int64_t index, int64_t keys_seen, bool last) {
  const int64_t first_key = index * c.tile, rows = c.group * item.queries;
  const int64_t left = p.sk - first_key;
  AttentionTile t{};
  t.d = p.d;
  t.dv = p.dv;
  t.keys = left < c.tile ? left : c.tile;
  if (c.tiles > 1 && keys_seen - first_key < t.keys) t.keys = keys_seen - first_key;
  t.first = index == 0;
  t.s = b.s;
  t.columns = b.columns;
  t.scale = p.scale;
  t.safe = p.safe;
  set_keys(item, first_key, &t);
  t.mask_stride = p.mask_strides[3];
  for (int64_t r = 0; r < rows; r += t.rows) {
    t.rows = rows_of_block(rows - r);
    const int64_t at = c.tiles == 1 ? 0 : r;  // one tile needs no results to come back to
    t.max = b.max + at;
    t.sum = b.sum + at;
    t.o = b.o + at * round16(p.dv);
    if (t.first) start(&t);
    int64_t seen = 0;
    for (int i = 0; i < t.rows; ++i) {
      const Row row = row_of(c, item, r + i);
      const int64_t limit = p.visible(row.query) - first_key;
      t.limit[i] = limit < 0 ? 0 : limit < t.keys ? limit : t.keys;
      seen = t.limit[i] > seen ? t.limit[i] : seen;
      t.y[i] = last ? y_row(item, row) : nullptr;
      if (p.mask != nullptr) t.mask[i] = mask_row(item, row) + first_key * p.mask_strides[3];
    }
    set_queries(item, r, &t);
    if (last) prefetch(item, r, t.rows);
    if (seen > 0) {
      kernel->tile(t);
      continue;
    }
    if (t.first) std::memset(t.o, 0, static_cast<size_t>(t.rows * round16(p.dv)) * sizeof(float));
    if (last) {  // what earlier tiles have left, if anything
      for (int i = 0; i < t.rows; ++i) kernel->finish(t.o + i * round16(p.dv), t.sum[i], p.safe, t.y[i], p.dv);
    }
  }
}

void Worker::run(const Item& item) {
  if (p.sk == 0) {  // the sum of nothing
    for (int64_t r = 0; r < c.group * item.queries; ++r) {
      std::memset(y_row(item, row_of(c, item, r)), 0, static_cast<size_t>(p.dv) * sizeof(float));
    }
    return;
  }
  // The last query sees most; tiles behind what it sees are left out.
  const int64_t seen = p.visible(item.first_query + item.queries - 1);
  int64_t tiles = (seen + c.tile - 1) / c.tile;
  if (tiles == 0) tiles = 1;
  for (int64_t i = 0; i < tiles; ++i) tile(item, i, seen > 0 ? seen : 1, i == tiles - 1);
}

}  // namespace

// causal 1: query i sees keys up to i; 2: up to i + Sk - Sq. Without a scale it is 1 / sqrt(d).
const Attribute kAttentionAttributes[3] = {number("scale", 0).with(kDerived), integer("causal", 0, 2, 0),
                                           integer("safe", 0, 1, 0)};

Status attention_prepare(const Attrs& attrs, Isa isa, AttentionParams* p) {
  p->kernel = kAttentionF32[isa];
  MRT_TRY(attr_float(attrs, "scale", &p->scale));
  MRT_TRY(attr_int(attrs, "causal", &p->causal));
  return attr_int(attrs, "safe", &p->safe);
}

void attention_set(const AttentionParams& p, AttentionProblem* problem) {
  problem->scale = static_cast<float>(p.scale != 0 ? p.scale : 1 / std::sqrt(static_cast<double>(problem->d)));
  problem->causal = p.causal;
  problem->safe = p.safe != 0;
}

Status attention_mask(const char* contract, const Tensor& mask, AttentionProblem* problem) {
  if (mask.ndim > 4)
    return fail(MRT_ERROR_SHAPE, "%s: mask has %d dimensions, expected at most 4", contract, mask.ndim);
  const int64_t full[4] = {problem->batch, problem->heads, problem->sq, problem->sk};
  int64_t stride = 1;
  for (int32_t i = 1; i <= 4; ++i) problem->mask_strides[4 - i] = 0;
  for (int32_t i = 1; i <= mask.ndim; ++i) {
    const int64_t extent = mask.shape[mask.ndim - i];
    if (extent != 1 && extent != full[4 - i]) {
      return fail(MRT_ERROR_SHAPE, "%s: mask has extent %" PRId64 " in dimension %d, expected 1 or %" PRId64, contract,
                  extent, mask.ndim - i, full[4 - i]);
    }
    problem->mask_strides[4 - i] = extent == 1 ? 0 : stride;
    stride *= extent;
  }
  problem->mask = mask.as<float>();
  return Status();
}

size_t attention_scratch(const AttentionParams& p, const AttentionProblem& problem, int32_t threads) {
  if (p.kernel == nullptr || problem.batch * problem.heads * problem.sq * problem.dv == 0) return 0;
  const Cut c = cut_of(problem, threads);
  const int64_t workers = c.items < threads ? c.items : threads;
  return buffers_of(problem, c, nullptr).bytes * static_cast<size_t>(workers);
}

int32_t attention_run(const AttentionParams& params, const AttentionProblem& p, KernelContext& ctx) {
  if (p.batch * p.heads * p.sq * p.dv == 0) return MRT_OK;
  if (params.kernel == nullptr) {
    attention_reference(p);
    return MRT_OK;
  }
  // The cut must be the one that scratch was computed for.
  const Cut c = cut_of(p, ctx.threads);
  const size_t bytes = buffers_of(p, c, nullptr).bytes;
  const int64_t workers = c.items < ctx.threads ? c.items : ctx.threads;
  const auto item_of = [&](int64_t i) {
    const int64_t head = i / c.chunks, first = i % c.chunks * c.queries;
    return Item{head / p.kv_heads, head % p.kv_heads, first, p.sq - first < c.queries ? p.sq - first : c.queries};
  };
  // Items in runs, so that the packed tile of a head is used again.
  const int64_t wanted = workers == 1 ? 1 : 4 * workers;
  const int64_t to_leave = ctx.watch == nullptr ? 1 : pieces_to_leave(ctx, attention_flops(p));
  const int64_t runs = std::min(c.items, std::max(wanted, to_leave));
  parallel_items(ctx, runs, workers, [&](int64_t worker, int64_t run) {
    Worker w{params.kernel, p, c,
             buffers_of(p, c, static_cast<char*>(ctx.scratch) + static_cast<size_t>(worker) * bytes)};
    const int64_t end = (run + 1) * c.items / runs;
    for (int64_t i = run * c.items / runs; i < end; ++i) {
      const Item next = item_of(i + 1);
      w.next = i + 1 < end ? &next : nullptr;
      w.run(item_of(i));
    }
  });
  return MRT_OK;
}

double attention_flops(const AttentionProblem& p) {
  double pairs = 0;
  for (int64_t i = 0; i < p.sq; ++i) pairs += static_cast<double>(p.visible(i));
  return 2.0 * static_cast<double>(p.batch * p.heads) * pairs * static_cast<double>(p.d + p.dv);
}

}  // namespace mrt
