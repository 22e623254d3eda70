// Tiles of up to 4 x 16 in plain C++, which the compiler vectorises for the baseline; the kinds of groups do not
// matter.
#include "kernels/qgemm/finish_generic.h"

namespace mrt {
namespace {

MRT_INLINE void add_group(const uint8_t* a, int64_t count, const int8_t* w, int32_t (&acc)[kQPanel]) {
  int16_t x[kQGroup] = {};
  for (int64_t k = 0; k < count; ++k) x[k] = a[k];
  for (int64_t j = 0; j < kQPanel; ++j) {
    int32_t sum = 0;
    for (int64_t k = 0; k < kQGroup; ++k) sum += x[k] * w[j * kQGroup + k];
    acc[j] = static_cast<int32_t>(static_cast<uint32_t>(acc[j]) + static_cast<uint32_t>(sum));
  }
}

// The bytes of whole group g of a tap in the order of its weights.
MRT_INLINE void load_group(const uint8_t* a, int64_t g, int64_t whole, const QMasks* masks, const QOrder* orders,
                           uint8_t (&out)[kQGroup]) {
  const int64_t window = g & -kQWindow;
  const bool ordered = window + kQWindow <= whole && masks[g / kQSegment].ordered >> (window % kQSegment) & 1;
  for (int64_t k = 0; k < kQGroup; ++k) {
    out[k] = ordered ? a[window * kQGroup + (orders[g].k[k] & 15)] : a[g * kQGroup + k];
  }
}

MRT_INLINE void row_sum(const QTileCall& c, const uint8_t* const* pointers, int64_t rows, int64_t i,
                        int32_t (&acc)[kQPanel]) {
  const int64_t whole = c.kc / kQGroup;
  for (int64_t t = 0; t < c.taps; ++t) {
    const uint8_t* const a = pointers[t * rows + i] + c.a_offset;
    const int8_t* const w = c.w + t * c.tap_bytes;
    for (int64_t g = c.g0; g < c.g1; ++g) {
      uint8_t group[kQGroup];
      load_group(a, g, whole, c.masks + t * c.tap_masks, c.orders + t * c.tap_orders, group);
      add_group(group, kQGroup, w + g * 64, acc);
    }
    if (!c.tail) continue;
    if (c.kc >= kQGroup) {
      add_group(a + c.kc - kQGroup, kQGroup, w + whole * 64, acc);
    } else {
      add_group(a, c.kc, w + whole * 64, acc);
    }
  }
}

// One copy for all heights, which make no difference to it.
#if __has_attribute(noclone)
__attribute__((noclone))
#endif
__attribute__((noinline)) void tiles(const QTileCall& c, int64_t rows) {
  int32_t* out = c.acc;
  for (int64_t t = 0; t < c.tiles; ++t) {
    for (int64_t i = 0; i < rows; ++i, out += kQPanel) {
      int32_t acc[kQPanel] = {};
      if (c.folded_start) std::memcpy(acc, c.folded_start->start, sizeof(acc));
      if (!c.first) std::memcpy(acc, out, sizeof(acc));
      row_sum(c, c.a + t * c.tile_pointers, rows, i, acc);
      std::memcpy(out, acc, sizeof(acc));
    }
  }
}

template <int MR>
void tile(const QTileCall& c) {
  tiles(c, MR);
}

void finish(const QFinishCall& c) { q_finish<F32x4>(c, kEpilogue_scalar); }

}  // namespace

extern const QTileTable kQTile_scalar = {
    4, false, {nullptr, tile<1>, tile<2>, tile<3>, tile<4>}, finish, q_row_sum, nullptr, nullptr, 0, nullptr, {}};

}  // namespace mrt
