// Tiles of rows by 16 columns with NEON, whatever multiplies bytes.
//
// `P` is a struct of functions:
//   kRows, Sums<MR>                  rows of a tile, at most; a struct of the registers of sums of so many
//   kFlip                            a bit of activations that is other: 128 where products are of signed bytes, less
//                                    128 then, and 128 times the sums of the columns' weights is what sums begin with
//   begin(sums, from, from_row)      what the sums of rows begin with, from_row apart
//   window(sums, x, w)               adds four groups; x[i] are the 16 bytes of row i
//   group(sums, x, w)                adds one; x[i] are its four bytes, four times
//   store(sums, to)                  the sums [MR][16]
// Included by one file per instruction set.
#pragma once

#include <arm_neon.h>

#include "kernels/qgemm/finish_generic.h"
#include "kernels/qgemm/store_neon.h"

namespace mrt {
namespace {

constexpr int64_t kWindowBytes = kQWindow * kQGroup;
constexpr int64_t kGroupWeights = kQPanel * kQGroup;

template <class P>
MRT_INLINE int8x16_t flipped(uint8x16_t a) {
  return vreinterpretq_s8_u8(P::kFlip != 0 ? veorq_u8(a, vdupq_n_u8(P::kFlip)) : a);
}

// Whole windows of a tap, each through its order, which is its own where it is not ordered; or none is ordered.
template <class P, int MR, bool kOrdered>
MRT_INLINE void windows_of(const uint8_t* const (&row)[MR], int64_t windows, const int8_t* w, const QOrder* orders,
                           typename P::template Sums<MR>& acc) {
  const uint8_t* const order = reinterpret_cast<const uint8_t*>(orders);
  const int64_t end = windows * kWindowBytes;
  for (int64_t k = 0; k < end; k += kWindowBytes, w += kQWindow * kGroupWeights) {
    int8x16_t x[MR];
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      const uint8x16_t bytes = vld1q_u8(row[i] + k);
      x[i] = flipped<P>(kOrdered ? vqtbl1q_u8(bytes, vld1q_u8(order + k)) : bytes);
    }
    P::window(acc, x, w);
  }
}

#if __has_attribute(noclone)
#define MRT_ONE_COPY __attribute__((noinline, noclone))
#else
#define MRT_ONE_COPY __attribute__((noinline))
#endif

// The bytes of rows of fewer than a group.
MRT_ONE_COPY void tails(const uint8_t* const* row, int64_t rows, int64_t at, int64_t kc, int32_t* out) {
  for (int64_t i = 0; i < rows; ++i) out[i] = tail_bytes(row[i] + at, kc);
}

// A stretch of each tap: its windows, the groups behind them, and the bytes behind those.
struct Stretches {
  int64_t at, windows, rest;  // bytes of a row before it
  int64_t begin, kc;          // of the whole tap
  bool tail;
  explicit MRT_INLINE Stretches(const QTileCall& c)
      : at(c.a_offset + c.g0 * kQGroup),
        windows((c.g1 - c.g0) / kQWindow),
        rest((c.g1 - c.g0) % kQWindow + c.tail),
        begin(c.a_offset),
        kc(c.kc),
        tail(c.tail) {}
};

template <class P, int MR>
MRT_INLINE void rest_of(const Stretches& s, const uint8_t* const* a, const int8_t* w,
                        typename P::template Sums<MR>& acc) {
  int64_t at = s.at + s.windows * kWindowBytes;
  for (int64_t left = s.rest; left > 0; --left, w += kGroupWeights, at += kQGroup) {
    int32_t last[MR];
    if (left == 1 && s.tail) at = s.begin + s.kc - kQGroup;
    if (left == 1 && s.tail && s.kc < kQGroup) {
      tails(a, MR, s.begin, s.kc, last);
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) last[i] = four_bytes(a[i] + at);
    }
    int8x16_t x[MR];
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) x[i] = flipped<P>(vreinterpretq_u8_s32(vdupq_n_s32(last[i])));
    P::group(acc, x, w);
  }
}

// Complete sums of rows, which began with f.start, to floats or bytes; of tiles one behind the other.
MRT_ONE_COPY void finish_tiles(const QTileCall& c, const int32_t* sums, int64_t rows, int64_t row) {
  const QFolded& f = *c.folded;
  uint8_t* const y = c.y + row * c.ldy;
  if (!f.floats) return store_folded(f, sums, rows, y, c.ldy);
  const float* const residual = c.residual ? c.residual + row * c.ldr : nullptr;
  for (int64_t i = 0; i < rows; ++i, sums += kQPanel) {
    store_floats<F32x4n, 1>(f, y + i * c.ldy, 0, residual ? residual + i * c.ldr : nullptr, 0,
                            [&](int, int j) { return I32x4n{vld1q_s32(sums + 4 * j)}; });
  }
}

constexpr int64_t kBatch = 8;  // tiles that are finished together

template <class P, int MR, bool kOrdered>
void tiles_of(const QTileCall& call) {
  const QTileCall c = call;  // of our own: what is stored could be anything, and all would be read again
  const Stretches s(c);
  alignas(16) int32_t start[kQPanel], complete[kBatch * MR * kQPanel];
  for (int j = 0; j < kQPanel; j += 4) {
    const int32x4_t sums = P::kFlip != 0 ? vshlq_n_s32(vld1q_s32(c.sums + j), 7) : vdupq_n_s32(0);
    vst1q_s32(start + j, c.folded_start ? vaddq_s32(sums, vld1q_s32(c.folded_start->start + j)) : sums);
  }
  const int64_t windows_bytes = s.windows * kQWindow * kGroupWeights;
  int64_t waiting = 0;
  for (int64_t t = 0; t < c.tiles; ++t) {
    int32_t* const sums = c.acc + t * MR * kQPanel;
    typename P::template Sums<MR> acc;
    const int32_t* from = c.first ? start : sums;
    int64_t from_row = c.first ? 0 : kQPanel;
    __asm__("" : "+r"(from), "+r"(from_row));  // one way for both: registers of so many sums take much code
    P::begin(acc, from, from_row);
    const uint8_t* const* a = c.a + t * c.tile_pointers;
    const int8_t* w = c.w + c.g0 * kGroupWeights;
    const QOrder* orders = c.orders + c.g0;
    for (int64_t tap = c.taps; tap > 0; --tap, a += MR, w += c.tap_bytes, orders += c.tap_orders) {
      const uint8_t* row[MR];
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) row[i] = a[i] + s.at;
      windows_of<P, MR, kOrdered>(row, s.windows, w, orders, acc);
      if (s.rest > 0) rest_of<P, MR>(s, a, w + windows_bytes, acc);
    }
    P::store(acc, c.folded ? complete + waiting * MR * kQPanel : sums);
    if (!c.folded || (++waiting < kBatch && t + 1 < c.tiles)) continue;
    finish_tiles(c, complete, waiting * MR, (t + 1 - waiting) * MR);
    waiting = 0;
  }
}

MRT_INLINE bool any_ordered(const QTileCall& c) {
  uint64_t bits = 0;
  for (int64_t t = 0; t < c.taps; ++t) {
    const QMasks* const masks = c.masks + t * c.tap_masks;
    for (int64_t s = c.g0 / kQSegment; s * kQSegment < c.g1; ++s) bits |= masks[s].ordered;
  }
  return (bits & kQFirst) != 0;
}

template <class P, int MR>
void tile(const QTileCall& c) {
  if (any_ordered(c)) return tiles_of<P, MR, true>(c);
  tiles_of<P, MR, false>(c);
}

// One row.
template <class P>
void row_of_panels(const QRowCall& c) {
  QTileCall call{};
  const uint8_t* const row[1] = {c.a};
  call.tiles = 1;
  call.a = row;
  call.taps = 1;
  call.kc = c.kc;
  call.g1 = c.kc / kQGroup;
  call.tail = c.kc % kQGroup != 0;
  call.first = true;
  const char* packed = c.packed;
  for (int64_t p = 0; p < c.panels; ++p, packed += c.bytes) {
    call.w = reinterpret_cast<const int8_t*>(packed + c.weights_at);
    call.sums = reinterpret_cast<const int32_t*>(packed);
    call.orders = reinterpret_cast<const QOrder*>(packed + c.orders_at);
    call.acc = c.acc + p * kQPanel;
    tiles_of<P, 1, true>(call);
  }
}

}  // namespace
}  // namespace mrt
