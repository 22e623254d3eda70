// top_k: the first k elements of each line along `axis` in order, and where they stood; or the one at a place of the
// sorted line (pick). Of equal elements the one that stands first comes first; NaN is the largest number.
//
// A line is read once, in chunks: keys are made of its elements (top_k_kernels.h), and those below the k-th smallest
// key so far are kept. When the room for them is full, all but the first k are thrown away (quickselect; C. Hoare,
// Find, 1961), which lowers the bar: of a long line in no particular order nearly all chunks end with one comparison.
#include <algorithm>
#include <cinttypes>
#include <limits>

#include "kernels/movement/movement.h"
#include "kernels/top_k/order.h"
#include "kernels/top_k/top_k_kernels.h"

namespace mrt {
namespace {

constexpr const char* kName = "top_k";

constexpr int64_t kLongest = 1LL << 32;  // elements of a line: an entry has 32 bits for a position

constexpr Operand kInputs[] = {{"x", kOrdered, kAnyRank, kBatched}};
constexpr Operand kOutputs[] = {{"values", kLikeFirst, kAnyRank}, {"positions", kS32 | kS64, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("axis", -MRT_MAX_RANK, MRT_MAX_RANK - 1, -1), integer("largest", 0, 1, 1),
                                     choice("pick", "first kth median nanmedian"), integer("k", 0, kLongest, 0)};
constexpr Contract kContract = {kName, "", kInputs, kOutputs, kAttributes};
constexpr int64_t kChunk = 256;        // elements whose keys are made at once
constexpr int64_t kSpare = 1024;       // more entries than k, at least, before all but k are thrown away
constexpr int64_t kGrain = 16 * 1024;  // elements of one piece of parallel work

enum Pick { kFirst, kKth, kMedian, kNanMedian };

struct Params {
  const TopKKernel* kernel;
  int64_t axis, largest, k;
  int32_t pick;
};

// A key with the position of its element, ordered by both; the keys' sign bit is turned over, so that they are
// unsigned.
struct Narrow {
  using Key = int32_t;
  uint64_t both;
  static Narrow of(Key key, int64_t position) {
    return {static_cast<uint64_t>(static_cast<uint32_t>(key) ^ 0x80000000u) << 32 | static_cast<uint64_t>(position)};
  }
  Key key() const { return static_cast<Key>(static_cast<uint32_t>(both >> 32) ^ 0x80000000u); }
  int64_t position() const { return static_cast<int64_t>(both & 0xFFFFFFFFu); }
  bool operator<(const Narrow& o) const { return both < o.both; }
};
struct Wide {
  using Key = int64_t;
  int64_t key_, position_;
  static Wide of(Key key, int64_t position) { return {key, position}; }
  Key key() const { return key_; }
  int64_t position() const { return position_; }
  bool operator<(const Wide& o) const { return key_ < o.key_ || (key_ == o.key_ && position_ < o.position_); }
};

bool keys_of(const TopKKernel& kernel, Number number, bool largest, const void* x, int64_t n, int32_t limit,
             int32_t* keys) {
  return kernel.narrow(number, largest, x, n, limit, keys);
}
bool keys_of(const TopKKernel& kernel, Number number, bool largest, const void* x, int64_t n, int64_t limit,
             int64_t* keys) {
  return kernel.wide(number, largest, x, n, limit, keys);
}

bool is_float(Number number) {
  return number == Number::f16 || number == Number::bf16 || number == Number::f32 || number == Number::f64;
}

// Of every NaN of floats, in ascending order.
template <typename Key>
Key nan_key(Number number) {
  return bytes_of(number) == 2 ? INT16_MAX : std::numeric_limits<Key>::max();
}

bool number_of(DType dtype, Number* out) {
  const int size = dtype.bits == 8 ? 0 : dtype.bits == 16 ? 1 : dtype.bits == 32 ? 2 : dtype.bits == 64 ? 3 : -1;
  if (size < 0) return false;
  constexpr Number kUnsigned[] = {Number::u8, Number::u16, Number::u32, Number::u64};
  constexpr Number kSigned[] = {Number::s8, Number::s16, Number::s32, Number::s64};
  constexpr Number kFloats[] = {Number::f16, Number::f16, Number::f32, Number::f64};
  switch (dtype.code) {
    case MRT_BOOL:
      *out = Number::u8;
      return size == 0;
    case MRT_UINT:
      *out = kUnsigned[size];
      return true;
    case MRT_INT:
      *out = kSigned[size];
      return true;
    case MRT_FLOAT:
      *out = kFloats[size];
      return size > 0;
    case MRT_BFLOAT:
      *out = Number::bf16;
      return size == 1;
    default:
      return false;
  }
}

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  Params* p = static_cast<Params*>(params);
  p->kernel = kTopK[isa];
  MRT_TRY(attr_int(attrs, "axis", &p->axis));
  MRT_TRY(attr_int(attrs, "largest", &p->largest));
  MRT_TRY(attr_int(attrs, "k", &p->k));
  MRT_TRY(attr_choice(attrs, "pick", &p->pick));
  if (p->pick >= kMedian && p->largest != 0) {
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: a median counts from the smallest, expected largest = 0", kName);
  }
  return Status();
}

// The tensors seen as lines of n elements, `after` apart; `k` of each are wanted.
struct Lines {
  Number number;
  int64_t before, n, after, k;
};

// Of tensors that `check` has seen and that have elements: without, no product of extents is taken.
Lines lines_of(const Params* p, const Tensor& x, const Tensor& values) {
  const int32_t axis = static_cast<int32_t>(p->axis < 0 ? p->axis + x.ndim : p->axis);
  Lines lines = {};
  number_of(x.dtype, &lines.number);
  lines.before = x.extent(0, axis);
  lines.n = x.shape[axis];
  lines.after = x.extent(axis + 1, x.ndim);
  lines.k = values.shape[axis];
  return lines;
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params* p = static_cast<const Params*>(params);
  const Tensor &x = in[0], &values = out[0], &positions = out[1];
  MRT_TRY(check_tensor(kName, "values", values, x.ndim));
  int32_t axis;
  MRT_TRY(check_axis(kName, p->axis, x.ndim, &axis));
  const int64_t n = x.shape[axis], k = values.shape[axis];
  for (int32_t d = 0; d < x.ndim; ++d) {
    if (d != axis) MRT_TRY(check_extent(kName, "values", values, d, x.shape[d]));
  }
  MRT_TRY(check_same_shape(kName, "positions", positions, values));
  if (n > kLongest || (n > INT32_MAX && positions.dtype.bits == 32)) {
    return fail(MRT_ERROR_SHAPE, "%s: a line of %" PRId64 " elements is too long for its positions", kName, n);
  }
  if (p->pick == kFirst) {
    if (k <= n) return Status();
    return fail(MRT_ERROR_SHAPE, "%s: asks for %" PRId64 " of %" PRId64 " elements", kName, k, n);
  }
  MRT_TRY(check_extent(kName, "values", values, axis, 1));
  if (has_no_elements(values) || (p->pick == kKth ? p->k < n : n > 0)) return Status();
  return fail(MRT_ERROR_SHAPE, "%s: asks for place %" PRId64 " of %" PRId64 " elements", kName, p->k, n);
}

// How the work is laid out: a line may be cut into pieces, of each of which the first k are found by a thread. For a
// place in the sorted line all elements of it are kept.
struct Layout {
  int64_t pieces, kept, workers;
  size_t region, merged;  // bytes of the entries of a worker (or piece), and of those of all pieces together
  Layout(const Params* p, const Lines& lines, int32_t threads) {
    kept = p->pick == kFirst ? lines.k : lines.n;
    workers = threads;
    pieces = 1;
    if (lines.before < threads && lines.after < threads) {
      pieces = std::min<int64_t>(threads, lines.n / kGrain);
      if (pieces < 1 || kept > lines.n / (4 * pieces)) pieces = 1;
    }
    const size_t entry = bytes_of(lines.number) == 8 ? sizeof(Wide) : sizeof(Narrow);
    region = align64(static_cast<size_t>(room() < lines.n ? room() + kChunk : lines.n) * entry);
    merged = pieces > 1 ? align64(static_cast<size_t>(pieces * kept) * entry) : 0;
  }
  int64_t room() const { return kept + std::max(kept, kSpare); }
  size_t bytes() const { return static_cast<size_t>(std::max(workers, pieces)) * region + merged; }
};

size_t scratch(const void* params, const Tensor* in, int, const Tensor* out, int, int32_t threads) {
  const Params* p = static_cast<const Params*>(params);
  if (p->kernel == nullptr || has_no_elements(in[0]) || has_no_elements(out[0])) return 0;
  return Layout(p, lines_of(p, in[0], out[0]), threads).bytes();
}

// Elements [begin, end) of a line whose first element is at x: the first `kept` of them, in any order, to `entries`,
// which have room for `room` and a chunk more, or for all of them. Returns how many there are, or -1: the run has to
// end.
template <typename Entry>
int64_t gather_first(const Params* p, const Lines& lines, const char* x, int64_t begin, int64_t end, int64_t kept,
                     int64_t room, Entry* entries, Watch* watch) {
  using Key = typename Entry::Key;
  const size_t size = bytes_of(lines.number);
  alignas(8) char side_by_side[kChunk * 8];
  Key keys[kChunk], limit = 0;
  bool limited = false;
  int64_t count = 0;
  Pace pace(watch, 16.0 * kChunk);
  for (int64_t at = begin; at < end; at += kChunk) {
    if (pace.stop()) return -1;
    const int64_t n = std::min(kChunk, end - at);
    const char* piece = x + at * lines.after * static_cast<int64_t>(size);
    if (lines.after != 1) {
      const int64_t step = lines.after * static_cast<int64_t>(size);
      for (int64_t i = 0; i < n; ++i) copy_run(side_by_side + i * size, piece + i * step, size);
      piece = side_by_side;
    }
    const bool any = keys_of(*p->kernel, lines.number, p->largest != 0, piece, n, limit, keys);
    if (limited && !any) continue;
    for (int64_t i = 0; i < n; ++i) {
      if (!limited || keys[i] < limit) entries[count++] = Entry::of(keys[i], at + i);
    }
    if (count > room) {
      place_nth(entries, entries + kept - 1, entries + count, watch);
      if (watch != nullptr && watch->stopped()) return -1;
      limit = entries[kept - 1].key();
      limited = true;
      count = kept;
    }
  }
  return count;
}

// The place in a sorted line that is wanted. torch's median is the lower of two, and NaN where there is one.
int64_t wanted_place(const Params* p, int64_t n, int64_t missing) {
  if (p->pick == kKth) return p->k;
  if (p->pick == kMedian && missing > 0) return n - missing;
  return std::max<int64_t>((p->pick == kMedian ? n : n - missing) - 1, 0) / 2;
}

// Values and positions of a line, `after` apart.
struct Results {
  char* values;
  char* positions;
  size_t size, position_size;
  int64_t after;

  void put(const Lines& lines, const char* x, int64_t place, int64_t position) const {
    const int64_t at = place * after;
    copy_run(values + at * static_cast<int64_t>(size), x + position * lines.after * static_cast<int64_t>(size), size);
    const int32_t narrow = static_cast<int32_t>(position);
    char* to = positions + at * static_cast<int64_t>(position_size);
    if (position_size == 8) {
      __builtin_memcpy(to, &position, 8);
    } else {
      __builtin_memcpy(to, &narrow, 4);
    }
  }
};

// From the entries of a line that may be wanted to its results; none where the run has to end.
template <typename Entry>
void finish(const Params* p, const Lines& lines, const char* x, Entry* entries, int64_t count, const Results& to,
            Watch* watch) {
  if (p->pick == kFirst) {
    if (lines.k < count) place_nth(entries, entries + lines.k, entries + count, watch);
    if (watch != nullptr && watch->stopped()) return;
    sort_entries(entries, entries + lines.k, watch);
    if (watch != nullptr && watch->stopped()) return;
    for (int64_t i = 0; i < lines.k; ++i) to.put(lines, x, i, entries[i].position());
    return;
  }
  int64_t missing = 0;
  if (p->pick != kKth) {
    const typename Entry::Key nan = nan_key<typename Entry::Key>(lines.number);
    for (int64_t i = 0; i < count; ++i) missing += is_float(lines.number) && entries[i].key() == nan;
  }
  const int64_t place = wanted_place(p, count, missing);
  place_nth(entries, entries + place, entries + count, watch);
  if (watch != nullptr && watch->stopped()) return;
  to.put(lines, x, 0, entries[place].position());
}

template <typename Entry>
void select(const Params* p, const Lines& lines, const Tensor& x, const Tensor* out, KernelContext& ctx) {
  const Layout layout(p, lines, ctx.threads);
  char* scratch = static_cast<char*>(ctx.scratch);
  const size_t size = bytes_of(lines.number), position_size = out[1].dtype.bytes();
  const auto region = [&](int64_t worker) { return reinterpret_cast<Entry*>(scratch + worker * layout.region); };
  const auto line_of = [&](int64_t line) {
    const int64_t first = line / lines.after * lines.n * lines.after + line % lines.after;
    return x.as<const char>() + first * static_cast<int64_t>(size);
  };
  const auto results_of = [&](int64_t line) {
    const int64_t first = line / lines.after * lines.k * lines.after + line % lines.after;
    return Results{out[0].as<char>() + first * static_cast<int64_t>(size),
                   out[1].as<char>() + first * static_cast<int64_t>(position_size), size, position_size, lines.after};
  };
  const int64_t count = lines.before * lines.after;
  if (layout.pieces == 1) {  // some lines to a thread, as many as make a piece of work worth it
    const int64_t together = std::max<int64_t>(1, kGrain / lines.n);
    parallel_items(ctx, ceil_div(count, together), layout.workers, [&](int64_t worker, int64_t item) {
      for (int64_t i = item * together; i < std::min(count, (item + 1) * together); ++i) {
        Entry* entries = region(worker);
        const int64_t n =
            gather_first(p, lines, line_of(i), 0, lines.n, layout.kept, layout.room(), entries, ctx.watch);
        if (n < 0) return;
        finish(p, lines, line_of(i), entries, n, results_of(i), ctx.watch);
      }
    });
    return;
  }
  Entry* merged = region(layout.pieces);
  const int64_t length = ceil_div(lines.n, layout.pieces);
  for (int64_t i = 0; i < count; ++i) {
    parallel_items(ctx, layout.pieces, layout.workers, [&](int64_t, int64_t piece) {
      Entry* entries = region(piece);
      const int64_t begin = piece * length, end = std::min(lines.n, begin + length);
      const int64_t n = gather_first(p, lines, line_of(i), begin, end, layout.kept, layout.room(), entries, ctx.watch);
      if (n < 0) return;
      if (layout.kept < n) place_nth(entries, entries + layout.kept, entries + n, ctx.watch);
      std::copy(entries, entries + layout.kept, merged + piece * layout.kept);
    });
    finish(p, lines, line_of(i), merged, layout.pieces * layout.kept, results_of(i), ctx.watch);
    if (ctx.watch != nullptr && ctx.watch->stopped()) throw_stopped();
  }
}

void run_reference(const Params* p, const Lines& lines, const Tensor& x, const Tensor* out) {
  const size_t size = bytes_of(lines.number), position_size = out[1].dtype.bytes();
  for (int64_t line = 0; line < lines.before * lines.after; ++line) {
    const int64_t outer = line / lines.after * lines.after, inner = line % lines.after;
    const char* from = x.as<const char>() + (outer * lines.n + inner) * static_cast<int64_t>(size);
    const int64_t first = outer * lines.k + inner;
    const Results to = {out[0].as<char>() + first * static_cast<int64_t>(size),
                        out[1].as<char>() + first * static_cast<int64_t>(position_size), size, position_size,
                        lines.after};
    int64_t missing = 0;
    for (int64_t i = 0; i < lines.n; ++i) {
      missing += is_nan_reference(lines.number, from + i * lines.after * static_cast<int64_t>(size));
    }
    const int64_t wanted = wanted_place(p, lines.n, missing);
    for (int64_t i = 0; i < lines.n; ++i) {
      const int64_t place = place_reference(lines.number, p->largest != 0, from, lines.n, lines.after, i);
      if (p->pick == kFirst ? place < lines.k : place == wanted) to.put(lines, from, p->pick == kFirst ? place : 0, i);
    }
  }
}

int32_t run(const void* params, const Tensor* in, int, const Tensor* out, int, KernelContext& ctx) {
  const Params* p = static_cast<const Params*>(params);
  if (has_no_elements(in[0]) || has_no_elements(out[0])) return MRT_OK;
  const Lines lines = lines_of(p, in[0], out[0]);
  if (p->kernel == nullptr) {
    run_reference(p, lines, in[0], out);
  } else if (bytes_of(lines.number) == 8) {
    select<Wide>(p, lines, in[0], out, ctx);
  } else {
    select<Narrow>(p, lines, in[0], out, ctx);
  }
  return MRT_OK;
}

double flops(const void*, const Tensor* in, int, const Tensor*, int) { return element_count(in[0]); }

bool separable(const void* params, const Tensor* in, int) {
  const int64_t axis = static_cast<const Params*>(params)->axis;
  return axis != 0 && axis != -in[0].ndim;
}

}  // namespace

const Operator kOperator_top_k = {&kContract, kTopK.rows, sizeof(Params), prepare, check,
                                  run,        scratch,    flops,          nullptr, separable};

}  // namespace mrt
