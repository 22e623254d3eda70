// Depthwise rows over quads by sdot: a quad is four registers of four channels each, in the channels' own order. Its
// products are of signed bytes: quads lack 128, which is one bit, and so do the zero points that offsets are made of.
#include <cstring>

#include "kernels/depthwise/row.h"
#include "kernels/qdepthwise/quads.h"
#include "kernels/qgemm/store_neon.h"

namespace mrt {
namespace {

constexpr uint8_t kFlip = 128;
constexpr int kParts = 4;       // registers of a quad
constexpr int64_t kStrip = 32;  // pixels whose sums wait to be finished

// ---- what is made once a unit ----

// Four weights of one position of the filter as 32-bit integers, of which the low byte counts; `blocks` of 8 exist.
MRT_INLINE uint32x4_t weights_at(const float* w, int64_t block, int64_t blocks, int part) {
  if (part / 2 >= blocks) return vdupq_n_u32(0);
  const float32x4_t four = vld1q_f32(w + part / 2 * block + part % 2 * 4);
  return vandq_u32(vreinterpretq_u32_s32(vcvtnq_s32_f32(four)), vdupq_n_u32(255));
}

void weights(const QuadWeights& call) {
  const QuadWeights q = call;
  const int8x16_t zeros = vdupq_n_s8(static_cast<int8_t>(q.zero ^ kFlip));
  for (int64_t p = 0; p < q.panels; ++p) {
    int32x4_t sum[kParts] = {};
    int8_t* out = q.out + p * kQuadBytes;
    q.shape.each_term([&](int64_t, int64_t, int64_t tap, int64_t step, int64_t count) {
      const float* const w = q.w + 2 * p * q.block + tap * kChannelBlock;
      for (int part = 0; part < kParts; ++part) {
        uint32x4_t quad = vdupq_n_u32(0);
        for (int64_t k = count; k-- > 0;) {
          const uint32x4_t one = weights_at(w + k * step * kChannelBlock, q.block, q.blocks - 2 * p, part);
          quad = vorrq_u32(vshlq_n_u32(quad, 8), one);
        }
        sum[part] = vdotq_s32(sum[part], vreinterpretq_s8_u32(quad), zeros);
        vst1q_s8(out + 16 * part, vreinterpretq_s8_u32(quad));
      }
      out += q.panels * kQuadBytes;
    });
    for (int part = 0; part < kParts; ++part) vst1q_s32(q.offset + p * kQPanel + 4 * part, sum[part]);
  }
}

void finish(const QFolded* panels, int64_t n, QuadFinish* out) {
  for (int64_t p = 0; p < n; ++p) {
    std::memcpy(out->start[p], panels[p].start, sizeof(out->start[p]));
    std::memcpy(out->scale[p], panels[p].scale, sizeof(out->scale[p]));
    std::memcpy(out->bias[p], panels[p].bias, sizeof(out->bias[p]));
  }
  const QFolded& f = panels[0];
  const int flip = f.is_signed ? 128 : 0, zero = f.zero + flip;
  const auto byte = [&](float x) { return static_cast<uint8_t>(vcvtns_s32_f32(x) + zero); };
  out->flip = static_cast<uint8_t>(flip);
  out->zero = static_cast<int16_t>(zero);
  out->lo = byte(f.lo < f.hi ? f.lo : f.hi);
  out->hi = byte(f.hi);
}

// A unit's order is the channels' own.
void as_it_is(void*, int64_t) {}

// ---- quads ----

// Those of four pixels, 16 channels.
MRT_INLINE void interleave(const uint8x16_t (&x)[4], uint8_t* to) {
  uint16_t* const out = reinterpret_cast<uint16_t*>(to);
  const auto pairs = [](uint8x16_t a) { return vreinterpretq_u16_u8(veorq_u8(a, vdupq_n_u8(kFlip))); };
  const uint16x8_t low = pairs(vzip1q_u8(x[0], x[1])), high = pairs(vzip2q_u8(x[0], x[1]));
  const uint16x8_t low2 = pairs(vzip1q_u8(x[2], x[3])), high2 = pairs(vzip2q_u8(x[2], x[3]));
  vst1q_u16(out, vzip1q_u16(low, low2));
  vst1q_u16(out + 8, vzip2q_u16(low, low2));
  vst1q_u16(out + 16, vzip1q_u16(high, high2));
  vst1q_u16(out + 24, vzip2q_u16(high, high2));
}

// Of a panel of fewer than 16 channels, behind which nothing may be read.
__attribute__((noinline)) void interleave_some(const uint8_t* const (&x)[4], int64_t at, int64_t channels,
                                               uint8_t* to) {
  uint8_t some[4][kQPanel] = {};
  for (int j = 0; j < 4; ++j) {
    for (int64_t c = 0; c < channels; ++c) some[j][c] = x[j][at + c];
  }
  interleave({vld1q_u8(some[0]), vld1q_u8(some[1]), vld1q_u8(some[2]), vld1q_u8(some[3])}, to);
}

template <int NP>
void stream(const QuadStream& call) {
  const QuadStream q = call;  // of our own: what is stored through out could be anything
  const int64_t whole = q.channels / kQPanel;
  // Positions at which all lines are inside are [begin, end).
  const int64_t begin = std::min(std::max<int64_t>(-q.first, 0), q.positions);
  const int64_t end = std::max(begin, std::min(q.pixels - 3 * q.shift - q.first, q.positions));
  uint8_t* out = q.out;
  int64_t next = q.to_odd, after = q.to_even;
  const auto store = [&](const uint8_t* const(&x)[4]) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int i = 0; i < NP; ++i) {
      uint8_t* const to = out + i * kQuadBytes;
      if (i < whole) {
        interleave({vld1q_u8(x[0] + 16 * i), vld1q_u8(x[1] + 16 * i), vld1q_u8(x[2] + 16 * i), vld1q_u8(x[3] + 16 * i)},
                   to);
      } else {
        interleave_some(x, kQPanel * i, std::max<int64_t>(0, q.channels - kQPanel * i), to);
      }
    }
    out += next;
    std::swap(next, after);
  };
  const uint8_t* x[4];
  int64_t p = 0;
  const auto outside = [&](int64_t until) {
    for (; p < until; ++p) {
      for (int j = 0; j < 4; ++j) {
        const int64_t at = q.first + p + j * q.shift;
        x[j] = q.line[j] && at >= 0 && at < q.pixels ? q.line[j] + at * q.stride : q.nothing;
      }
      store(x);
    }
  };
  outside(begin);
  int64_t step[4];
  for (int j = 0; j < 4; ++j) {
    x[j] = q.line[j] ? q.line[j] + (q.first + p + j * q.shift) * q.stride : q.nothing;
    step[j] = q.line[j] ? q.stride : 0;
  }
  for (; p < end; ++p) {
    store(x);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) x[j] += step[j];
  }
  outside(q.positions);
}

// ---- rows ----

// Sums of `count` pixels of a row from p on, of one panel of NP; kTerms is 0 for any number of terms.
template <int NP, int kTerms>
MRT_INLINE void sums_of(const QuadRows& r, int panel, int64_t at, int64_t count, const int32_t* start, int32_t* to) {
  constexpr int kKept = kTerms > 0 ? kTerms : 1;
  constexpr int64_t kPixel = NP * kQuadBytes;
  int8x16_t w[kKept][kParts];
  const uint8_t* x[kKept];
#pragma GCC unroll 4
  for (int t = 0; t < kTerms; ++t) {
    x[t] = r.x[t] + at + panel * kQuadBytes;
#pragma GCC unroll 4
    for (int j = 0; j < kParts; ++j) w[t][j] = vld1q_s8(r.w + t * kPixel + panel * kQuadBytes + 16 * j);
  }
  int32x4_t first[kParts];
#pragma GCC unroll 4
  for (int j = 0; j < kParts; ++j) first[j] = start ? vld1q_s32(start + 4 * j) : vdupq_n_s32(0);
  for (int64_t i = 0; i < count; ++i, to += kQPanel) {
    int32x4_t acc[kParts];
#pragma GCC unroll 4
    for (int j = 0; j < kParts; ++j) acc[j] = first[j];
#pragma GCC unroll 4
    for (int t = 0; t < kTerms; ++t) {
#pragma GCC unroll 4
      for (int j = 0; j < kParts; ++j) {
        acc[j] = vdotq_s32(acc[j], vreinterpretq_s8_u8(vld1q_u8(x[t] + i * kPixel + 16 * j)), w[t][j]);
      }
    }
    for (int64_t t = 0; kTerms == 0 && t < r.terms; ++t) {
      const uint8_t* const quad = r.x[t] + at + panel * kQuadBytes + i * kPixel;
      const int8_t* const weight = r.w + t * kPixel + panel * kQuadBytes;
#pragma GCC unroll 4
      for (int j = 0; j < kParts; ++j) {
        acc[j] = vdotq_s32(acc[j], vreinterpretq_s8_u8(vld1q_u8(quad + 16 * j)), vld1q_s8(weight + 16 * j));
      }
    }
#pragma GCC unroll 4
    for (int j = 0; j < kParts; ++j) vst1q_s32(to + 4 * j, acc[j]);
  }
}

// Sums that fit, as QFolded::fits says, to bytes; see store_neon.h.
void store(const QuadFinish& f, int panel, const int32_t* sums, int64_t count, int64_t channels, uint8_t* y,
           int64_t ldy) {
  const uint8x16_t lo = vdupq_n_u8(f.lo), hi = vdupq_n_u8(f.hi), flip = vdupq_n_u8(f.flip);
  const int16x8_t zero = vdupq_n_s16(f.zero);
  float32x4_t scale[kParts], bias[kParts];
#pragma GCC unroll 4
  for (int j = 0; j < kParts; ++j) {
    scale[j] = vld1q_f32(f.scale[panel] + 4 * j);
    bias[j] = vld1q_f32(f.bias[panel] + 4 * j);
  }
  for (; count > 0; --count, sums += kQPanel, y += ldy) {
    float32x4_t x[kParts];
#pragma GCC unroll 4
    for (int j = 0; j < kParts; ++j) {
      x[j] = vaddq_f32(vmulq_f32(vcvtq_f32_s32(vld1q_s32(sums + 4 * j)), scale[j]), bias[j]);
    }
    const uint8x16_t bytes = veorq_u8(vminq_u8(vmaxq_u8(saturated_bytes(x, zero), lo), hi), flip);
    if (channels >= kQPanel) {
      vst1q_u8(y, bytes);
    } else {
      uint8_t some[kQPanel];
      vst1q_u8(some, bytes);
      for (int64_t c = 0; c < channels; ++c) y[c] = some[c];
    }
  }
}

template <int NP, int kTerms>
void rows_of(const QuadRows& r) {
  alignas(16) int32_t sums[kStrip * kQPanel];
  for (int64_t row = 0; row < r.rows; ++row) {
    const int64_t pixel = row * r.pixels, at = row * r.row_step;
    if (NP == 1 && r.acc) {
      sums_of<NP, kTerms>(r, 0, at, r.pixels, nullptr, r.acc + pixel * kQPanel);
      continue;
    }
    for (int64_t p = 0; p < r.pixels; p += kStrip) {
      const int64_t count = std::min(kStrip, r.pixels - p);
      for (int panel = 0; panel < NP && panel * kQPanel < r.channels; ++panel) {
        sums_of<NP, kTerms>(r, panel, at + p * (NP * kQuadBytes), count, r.finish->start[panel], sums);
        uint8_t* const y = r.y + (pixel + p) * r.ldy + panel * kQPanel;
        store(*r.finish, panel, sums, count, r.channels - panel * kQPanel, y, r.ldy);
      }
    }
  }
}

template <int NP>
void rows(const QuadRows& r) {
  if (r.terms == 3) return rows_of<NP, 3>(r);  // 3 x 3
  rows_of<NP, 0>(r);
}

}  // namespace

extern const QuadTable kQuad_dotprod = {
    weights, finish, {nullptr, as_it_is, as_it_is}, {stream<1>, stream<2>, stream<4>}, {rows<1>, rows<2>, rows<4>}};

}  // namespace mrt
