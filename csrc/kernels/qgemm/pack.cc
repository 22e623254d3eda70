// Packing of int8 weights and the proof which groups may be summed in 16 bits; see pack.h.
#include "kernels/qgemm/pack.h"

#include <cinttypes>
#include <cstring>

#include "kernels/checks.h"

namespace mrt {
namespace {

int64_t up64(int64_t bytes) { return (bytes + 63) & ~int64_t{63}; }

// The largest sum, in size, of the products of these weights (count of them, `step` apart) with activations up to
// a_max. Products of one sign add up, those of the other can be zero at the same time.
int32_t worst(const int8_t* w, int64_t count, int64_t step, int64_t a_max) {
  int32_t up = 0, down = 0;
  for (int64_t i = 0; i < count; ++i) (w[i * step] > 0 ? up : down) += w[i * step];
  return static_cast<int32_t>(a_max) * (up > -down ? up : -down);
}

// 16 bits hold -32768 too, but one bound for both signs is simpler to trust.
constexpr int32_t kFits = 32767;

// Whether vpmaddubsw of the group saturates for no activations.
bool is_single(const int8_t* group, int64_t a_max) {
  for (int64_t pair = 0; pair < 2 * kQPanel; ++pair) {
    if (worst(group + 2 * pair, 2, 1, a_max) > kFits) return false;
  }
  return true;
}

// Whether the sums of the group and the next do not overflow either: pair p of both.
bool is_double(const int8_t* group, int64_t a_max) {
  for (int64_t pair = 0; pair < 2 * kQPanel; ++pair) {
    const int8_t four[4] = {group[2 * pair], group[2 * pair + 1], group[64 + 2 * pair], group[64 + 2 * pair + 1]};
    if (worst(four, 4, 1, a_max) > kFits) return false;
  }
  return is_single(group, a_max) && is_single(group + 64, a_max);
}

// What one sign of some weights adds up to: the positive ones of each column, then the negative ones.
struct OneSign {
  int16_t v[2 * kQPanel];
};
// a + b, and whether none of it is above `max_sum`.
bool add(const OneSign& a, const OneSign& b, int16_t max_sum, OneSign* out) {
  int16_t above = 0;
  for (int64_t i = 0; i < 2 * kQPanel; ++i) {
    out->v[i] = static_cast<int16_t>(a.v[i] + b.v[i]);
    above = static_cast<int16_t>(above | (out->v[i] > max_sum));
  }
  return above == 0;
}

// The weights of one window, k by k.
constexpr int kWindowKs = static_cast<int>(kQWindow * kQGroup);
struct Window {
  OneSign k[kWindowKs];
  int by_size[kWindowKs];  // the k's, that with the largest weight first
  int16_t max_sum;         // the largest sum of one sign that fits

  Window(const int8_t* group, int64_t a_max) : max_sum(static_cast<int16_t>(a_max > 0 ? kFits / a_max : kFits)) {
    int16_t largest[kWindowKs] = {};
    for (int i = 0; i < kWindowKs; ++i) {
      for (int64_t column = 0; column < kQPanel; ++column) {
        const int16_t w = group[i / kQGroup * 64 + column * kQGroup + i % kQGroup];
        const int16_t up = w > 0 ? w : 0, down = w < 0 ? static_cast<int16_t>(-w) : 0;
        k[i].v[column] = up;
        k[i].v[kQPanel + column] = down;
        largest[i] = largest[i] > up + down ? largest[i] : static_cast<int16_t>(up + down);
      }
      int at = i;
      for (; at > 0 && largest[by_size[at - 1]] < largest[i]; --at) by_size[at] = by_size[at - 1];
      by_size[at] = i;
    }
  }
};

// A partition of the k's of a window into sets of `size` that fit, in `order`; found by trying, the largest weights
// first, within a bound on the tries (most windows take a few dozen; one without an answer could take millions).
class Partition {
 public:
  Partition(const Window& window, int size) : window_(window), size_(size), found_(place(0, 0)) {}
  bool found() const { return found_; }
  const int* order() const { return order_; }

 private:
  static constexpr int kTries = 600;

  // Fills order_ from `at` on with what is not used of by_size; within a set only from `next` on.
  bool place(int at, int next) {
    if (at == kWindowKs) return true;
    const bool first = at % size_ == 0;
    for (int i = first ? 0 : next; i < kWindowKs && tries_ <= kTries; ++i) {
      if (used_ >> i & 1) continue;
      if (put(at, i)) return true;
      if (first) return false;  // the largest that is left has to be in some set
    }
    return false;
  }
  // Puts the i-th largest k at `at` and goes on; takes it back where that leads nowhere.
  bool put(int at, int i) {
    order_[at] = window_.by_size[i];
    const OneSign& k = window_.k[order_[at]];
    if (at % size_ == 0) {
      sums_[at] = k;
    } else if (++tries_; !add(sums_[at - 1], k, window_.max_sum, &sums_[at])) {
      return false;
    }
    used_ |= 1u << i;
    if (place(at + 1, i + 1)) return true;
    used_ &= ~(1u << i);
    return false;
  }

  const Window& window_;
  const int size_;
  int order_[kWindowKs] = {};
  OneSign sums_[kWindowKs];
  uint32_t used_ = 0;
  int tries_ = 0;
  bool found_;
};

// Sets that fit as pairs: two times two pairs that fit together go first, so that the first two groups are doubled.
bool join_pairs(const Window& window, const int* pairs, int* order) {
  OneSign sums[kWindowKs / 2], four;
  for (int p = 0; p < kWindowKs / 2; ++p) {
    add(window.k[pairs[2 * p]], window.k[pairs[2 * p + 1]], window.max_sum, &sums[p]);
  }
  uint32_t used = 0;
  int at = 0;
  const auto take = [&](int pair) {
    used |= 1u << pair;
    order[at++] = pairs[2 * pair];
    order[at++] = pairs[2 * pair + 1];
  };
  for (int p = 0; p < kWindowKs / 2 && at < kWindowKs / 2; ++p) {
    for (int q = p + 1; q < kWindowKs / 2 && !(used >> p & 1); ++q) {
      if (used >> q & 1 || !add(sums[p], sums[q], window.max_sum, &four)) continue;
      take(p);
      take(q);
    }
  }
  const bool joined = at == kWindowKs / 2;
  for (int p = 0; p < kWindowKs / 2; ++p) {
    if (!(used >> p & 1)) take(p);
  }
  return joined;
}

// Where the n-th k of a set of fours stands in its two groups: a four is pair p of both.
constexpr int kPlaceOfFour[8] = {0, 1, 4, 5, 2, 3, 6, 7};

// Writes the window's weights in the order in which sets of 2 or of 4 (doubled) stand.
void write_window(int8_t* group, const int* sets, const bool (&doubled)[2], QOrder* orders) {
  int8_t before[kQWindow * 64];
  std::memcpy(before, group, sizeof(before));
  for (int i = 0; i < kWindowKs; ++i) {
    const int place = i / 8 * 8 + (doubled[i / 8] ? kPlaceOfFour[i % 8] : i % 8), k = sets[i];
    orders[place / kQGroup].k[place % kQGroup] = static_cast<uint8_t>(k);
    for (int64_t column = 0; column < kQPanel; ++column) {
      group[place / kQGroup * 64 + column * kQGroup + place % kQGroup] =
          before[k / kQGroup * 64 + column * kQGroup + k % kQGroup];
    }
  }
}

// Finds an order of a window's k's in which more of it is doubled, or no group wide, and puts its weights into it.
bool order_window(int8_t* group, int64_t a_max, bool any_wide, uint64_t* doubled, QOrder* orders) {
  const Window window(group, a_max);
  const Partition fours(window, 4);
  if (fours.found()) {
    write_window(group, fours.order(), {true, true}, orders);
    *doubled = 5;
    return true;
  }
  const Partition pairs(window, 2);
  if (!pairs.found()) return false;
  int order[kWindowKs];
  const bool joined = join_pairs(window, pairs.order(), order);
  if (!joined && !any_wide) return false;
  write_window(group, order, {joined, false}, orders);
  *doubled = joined ? 1 : 0;
  return true;
}

// Kinds of the groups [g, g + count) of a window as they stand: bits of wide and doubled.
void kinds_of(const int8_t* group, int64_t count, int64_t a_max, uint64_t* wide, uint64_t* doubled) {
  *wide = *doubled = 0;
  for (int64_t g = 0; g < count; ++g) {
    if (!is_single(group + g * 64, a_max)) *wide |= uint64_t{1} << g;
  }
  for (int64_t g = 0; g + 1 < count; g += 2) {
    if (is_double(group + g * 64, a_max)) *doubled |= uint64_t{1} << g;
  }
}

void classify(int8_t* w, int64_t whole, int64_t a_max, QMasks* masks, QOrder* orders) {
  for (int64_t g = 0; g < whole; g += kQWindow) {
    QMasks& m = masks[g / kQSegment];
    const int64_t bit = g % kQSegment, count = whole - g < kQWindow ? whole - g : kQWindow;
    uint64_t wide = 0, doubled = 0;
    for (int64_t k = 0; k < count * kQGroup; ++k) orders[g + k / kQGroup].k[k % kQGroup] = static_cast<uint8_t>(k);
    kinds_of(w + g * 64, count, a_max, &wide, &doubled);
    if (doubled != 5 && count == kQWindow && order_window(w + g * 64, a_max, wide != 0, &doubled, orders + g)) {
      m.ordered |= uint64_t{1} << bit;
      wide = 0;
    }
    m.wide |= wide << bit;
    m.doubled |= doubled << bit;
  }
}

}  // namespace

QPanelLayout q_panel_layout(int64_t taps, int64_t kc) {
  QPanelLayout l{};
  l.taps = taps;
  l.kc = kc;
  l.groups = (kc + kQGroup - 1) / kQGroup;
  l.segments = (l.groups + kQSegment - 1) / kQSegment;
  l.masks_at = kQPanel * static_cast<int64_t>(sizeof(int32_t));
  l.orders_at = l.masks_at + up64(taps * l.segments * static_cast<int64_t>(sizeof(QMasks)));
  l.weights_at = l.orders_at + up64(taps * l.groups * static_cast<int64_t>(sizeof(QOrder)));
  l.bytes = l.weights_at + taps * l.groups * kQPanel * kQGroup;
  return l;
}

void q_describe_panel(const QPanelLayout& l, int64_t a_max, char* panel) {
  int32_t* const sums = reinterpret_cast<int32_t*>(panel);
  QMasks* const masks = reinterpret_cast<QMasks*>(panel + l.masks_at);
  QOrder* const orders = reinterpret_cast<QOrder*>(panel + l.orders_at);
  int8_t* const w = reinterpret_cast<int8_t*>(panel + l.weights_at);
  for (int64_t t = 0; t < l.taps; ++t) {
    int8_t* const tap = w + t * l.groups * kQPanel * kQGroup;
    for (int64_t i = 0; i < l.groups * kQPanel * kQGroup; ++i) sums[i / kQGroup % kQPanel] += tap[i];
    classify(tap, l.kc / kQGroup, a_max, masks + t * l.segments, orders + t * l.groups);
  }
}

int64_t q_packed_bytes(int64_t taps, int64_t kc, int64_t n) {
  if (n < 0 || taps < 0 || kc < 0) return -1;
  return checked_mul(q_panel_layout(taps, kc).bytes, n / kQPanel + (n % kQPanel != 0));
}

Status q_check_depth(const char* contract, int64_t taps, int64_t kc) {
  const int64_t depth = checked_mul(taps, kc);
  if (depth >= 0 && depth <= kQMaxDepth) return Status();
  return fail(MRT_ERROR_INVALID_ARGUMENT,
              "%s: sums of %" PRId64 " x %" PRId64 " products do not fit in 32 bits, expected at most %" PRId64,
              contract, taps, kc, kQMaxDepth);
}

int8_t q_packed_weight(const char* packed, const QPanelLayout& l, int64_t tap, int64_t k, int64_t n) {
  const char* const panel = packed + n / kQPanel * l.bytes;
  const QMasks* const masks = reinterpret_cast<const QMasks*>(panel + l.masks_at) + tap * l.segments;
  int64_t at = q_place_of(l, k);
  const int64_t group = at / kQGroup, window = group & -kQWindow;
  if (window + kQWindow <= l.kc / kQGroup && (masks[group / kQSegment].ordered >> (window % kQSegment) & 1)) {
    const QOrder* const orders = reinterpret_cast<const QOrder*>(panel + l.orders_at) + tap * l.groups + window;
    for (int64_t p = 0; p < kQWindow * kQGroup; ++p) {
      if ((orders[p / kQGroup].k[p % kQGroup] & 15) == k % (kQWindow * kQGroup)) at = window * kQGroup + p;
    }
  }
  const int64_t offset = (tap * l.groups + at / kQGroup) * 64 + n % kQPanel * kQGroup + at % kQGroup;
  return reinterpret_cast<const int8_t*>(panel + l.weights_at)[offset];
}

}  // namespace mrt
