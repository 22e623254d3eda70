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

// Whether k's i and j of two groups next to each other may be a pair: for no column the bound is exceeded.
bool may_pair(const int8_t* group, int i, int j, int64_t a_max) {
  for (int64_t column = 0; column < kQPanel; ++column) {
    const int8_t two[2] = {group[i / kQGroup * 64 + column * kQGroup + i % kQGroup],
                           group[j / kQGroup * 64 + column * kQGroup + j % kQGroup]};
    if (worst(two, 2, 1, a_max) > kFits) return false;
  }
  return true;
}

// Pairs the k's that are left in `free` (a bit each); `order` is filled from `at` on.
bool match(const bool (&pair)[8][8], uint32_t free, uint8_t* order, int at) {
  if (free == 0 || at >= 8) return true;
  const int i = __builtin_ctz(free);
  for (int j = i + 1; j < 8; ++j) {
    if (!(free >> j & 1) || !pair[i][j]) continue;
    order[at] = static_cast<uint8_t>(i);
    order[at + 1] = static_cast<uint8_t>(j);
    if (match(pair, free & ~(1u << i | 1u << j), order, at + 2)) return true;
  }
  return false;
}

// Finds pairs for the eight k's of two groups, and puts their weights into that order.
bool shuffle(int8_t* group, int64_t a_max, QOrder* orders) {
  bool pair[8][8] = {};
  for (int i = 0; i < 8; ++i)
    for (int j = i + 1; j < 8; ++j) pair[i][j] = may_pair(group, i, j, a_max);
  uint8_t order[8];
  if (!match(pair, 0xff, order, 0)) return false;
  int8_t before[128];
  std::memcpy(before, group, sizeof(before));
  for (int64_t p = 0; p < 8; ++p) {
    orders[p / kQGroup].k[p % kQGroup] = order[p];
    for (int64_t column = 0; column < kQPanel; ++column) {
      group[p / kQGroup * 64 + column * kQGroup + p % kQGroup] =
          before[order[p] / kQGroup * 64 + column * kQGroup + order[p] % kQGroup];
    }
  }
  return true;
}

void classify(int8_t* w, int64_t whole, int64_t a_max, QMasks* masks, QOrder* orders) {
  const auto wide = [&](int64_t g) {
    if (!is_single(w + g * 64, a_max)) masks[g / kQSegment].wide |= uint64_t{1} << (g % kQSegment);
  };
  for (int64_t g = 0; g < whole; g += 2) {
    QMasks& m = masks[g / kQSegment];
    const uint64_t bit = uint64_t{1} << (g % kQSegment);
    if (g + 1 == whole) {
      wide(g);
    } else if (is_double(w + g * 64, a_max)) {
      m.doubled |= bit;
    } else if (is_single(w + g * 64, a_max) && is_single(w + g * 64 + 64, a_max)) {
      continue;
    } else if (shuffle(w + g * 64, a_max, orders + g)) {
      m.shuffled |= bit;
    } else {
      wide(g);
      wide(g + 1);
    }
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
  const int64_t group = at / kQGroup, first = group & ~int64_t{1};
  if (first + 1 < l.kc / kQGroup && (masks[group / kQSegment].shuffled >> (first % kQSegment) & 1)) {
    const QOrder* const orders = reinterpret_cast<const QOrder*>(panel + l.orders_at) + tap * l.groups + first;
    for (int64_t p = 0; p < 8; ++p) {
      if ((orders[p / kQGroup].k[p % kQGroup] & 7) == k % 8) at = first * kQGroup + p;
    }
  }
  const int64_t offset = (tap * l.groups + at / kQGroup) * 64 + n % kQPanel * kQGroup + at % kQGroup;
  return reinterpret_cast<const int8_t*>(panel + l.weights_at)[offset];
}

}  // namespace mrt
