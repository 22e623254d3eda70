// Depthwise rows over quads with AVX-512 VNNI: a quad is one register.
#include "kernels/depthwise/row.h"
#include "kernels/qdepthwise/quads.h"
#include "simd/vec.h"

namespace mrt {
namespace {

MRT_INLINE __mmask64 first_bytes(int64_t n) { return n > 0 ? ~__mmask64{0} >> (64 - n) : 0; }

// ---- a unit's order ----
//
// Interleaving bytes works within quarters of a register. With 64 channels a register is a pixel and each quarter ends
// up with four of its 16 channels in each of four registers; with 32 a register holds two of the four pixels, and the
// channels of a register of quads are those of one half of each 16.

// Panels of 16 values in order to a unit's.
MRT_INLINE void arrange(__m512i (&v)[2]) {
  const __m512i first = v[0];
  v[0] = _mm512_shuffle_i64x2(first, v[1], 0x44);
  v[1] = _mm512_shuffle_i64x2(first, v[1], 0xee);
}
MRT_INLINE void arrange(__m512i (&v)[4]) {
  const __m512i a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[0], v[1], 0xee);
  const __m512i c = _mm512_shuffle_i32x4(v[2], v[3], 0x44), d = _mm512_shuffle_i32x4(v[2], v[3], 0xee);
  v[0] = _mm512_shuffle_i32x4(a, c, 0x88);
  v[1] = _mm512_shuffle_i32x4(a, c, 0xdd);
  v[2] = _mm512_shuffle_i32x4(b, d, 0x88);
  v[3] = _mm512_shuffle_i32x4(b, d, 0xdd);
}

template <int NP>
void arrange(void* values, int64_t count) {
  for (char* at = static_cast<char*>(values); count > 0; --count, at += NP * kQuadBytes) {
    __m512i v[NP];
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) v[p] = _mm512_loadu_si512(at + p * kQuadBytes);
    arrange(v);
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) _mm512_storeu_si512(at + p * kQuadBytes, v[p]);
  }
}

// The quads of four pixels.
MRT_INLINE void interleave(const uint8_t* const (&x)[4], __mmask64 some, __m512i (&quads)[4]) {
  __m512i s[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) s[j] = _mm512_maskz_loadu_epi8(some, x[j]);
  const __m512i low = _mm512_unpacklo_epi8(s[0], s[1]), high = _mm512_unpackhi_epi8(s[0], s[1]);
  const __m512i low2 = _mm512_unpacklo_epi8(s[2], s[3]), high2 = _mm512_unpackhi_epi8(s[2], s[3]);
  quads[0] = _mm512_unpacklo_epi16(low, low2);
  quads[1] = _mm512_unpackhi_epi16(low, low2);
  quads[2] = _mm512_unpacklo_epi16(high, high2);
  quads[3] = _mm512_unpackhi_epi16(high, high2);
}
MRT_INLINE void interleave(const uint8_t* const (&x)[4], __mmask64 some, __m512i (&quads)[2]) {
  __m256i s[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) s[j] = _mm256_maskz_loadu_epi8(static_cast<__mmask32>(some), x[j]);
  const __m512i a = _mm512_inserti64x4(_mm512_castsi256_si512(s[0]), s[2], 1);
  const __m512i b = _mm512_inserti64x4(_mm512_castsi256_si512(s[1]), s[3], 1);
  // Pairs of pixels 0 and 1 are in the lower half, those of 2 and 3 in the upper one.
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  quads[0] = _mm512_permutexvar_epi16(order, _mm512_unpacklo_epi8(a, b));
  quads[1] = _mm512_permutexvar_epi16(order, _mm512_unpackhi_epi8(a, b));
}
MRT_INLINE void interleave(const uint8_t* const (&x)[4], __mmask64 some, __m512i (&quads)[1]) {
  __m128i s[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) s[j] = _mm_maskz_loadu_epi8(static_cast<__mmask16>(some), x[j]);
  const __m256i a = _mm256_inserti128_si256(_mm256_castsi128_si256(s[0]), s[1], 1);
  const __m256i b = _mm256_inserti128_si256(_mm256_castsi128_si256(s[2]), s[3], 1);
  const __m512i pixels = _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
  const __m512i columns = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  quads[0] = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(columns, pixels), order);
}

// ---- what is made once a unit ----

// 16 weights of one position of the filter as 32-bit integers, of which the low byte counts; `blocks` of 8 exist.
MRT_INLINE __m512i weights_at(const float* w, int64_t block, int64_t blocks) {
  const __m256 low = blocks > 0 ? _mm256_loadu_ps(w) : _mm256_setzero_ps();
  const __m256 high = blocks > 1 ? _mm256_loadu_ps(w + block) : _mm256_setzero_ps();
  const __m512 both = _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
  return _mm512_and_si512(_mm512_cvtps_epi32(both), _mm512_set1_epi32(255));
}

void weights(const QuadWeights& call) {
  const QuadWeights q = call;
  const __m512i zeros = _mm512_set1_epi8(static_cast<char>(q.zero));
  for (int64_t p = 0; p < q.panels; ++p) {
    __m512i sum = _mm512_setzero_si512();
    int8_t* out = q.out + p * kQuadBytes;
    q.shape.each_term([&](int64_t, int64_t, int64_t tap, int64_t step, int64_t count) {
      __m512i quad = _mm512_setzero_si512();
      const float* const w = q.w + 2 * p * q.block + tap * kChannelBlock;
      for (int64_t k = count; k-- > 0;) {
        const __m512i one = weights_at(w + k * step * kChannelBlock, q.block, q.blocks - 2 * p);
        quad = _mm512_or_si512(_mm512_slli_epi32(quad, 8), one);
      }
      sum = _mm512_dpbusd_epi32(sum, zeros, quad);
      _mm512_storeu_si512(out, quad);
      out += q.panels * kQuadBytes;
    });
    _mm512_storeu_si512(q.offset + p * kQPanel, sum);
  }
}

void finish(const QFolded* panels, int64_t n, QuadFinish* out) {
  for (int64_t p = 0; p < n; ++p) {
    _mm512_store_si512(out->start[p], _mm512_load_si512(panels[p].start));
    _mm512_store_ps(out->scale[p], _mm512_load_ps(panels[p].scale));
    _mm512_store_ps(out->bias[p], _mm512_load_ps(panels[p].bias));
  }
  const QFolded& f = panels[0];
  const int flip = f.is_signed ? 128 : 0;
  const int zero = f.zero + flip;
  out->flip = static_cast<uint8_t>(flip);
  out->zero = static_cast<int16_t>(zero);
  out->lo = static_cast<uint8_t>(_mm_cvtss_si32(_mm_set_ss(f.lo < f.hi ? f.lo : f.hi)) + zero);
  out->hi = static_cast<uint8_t>(_mm_cvtss_si32(_mm_set_ss(f.hi)) + zero);
}

// ---- quads ----

template <int NP>
void stream(const QuadStream& call) {
  const QuadStream q = call;  // of our own: what is stored through out could be anything
  const __mmask64 some = first_bytes(q.channels);
  // Positions at which all lines are inside are [begin, end).
  const int64_t begin = std::min(std::max<int64_t>(-q.first, 0), q.positions);
  const int64_t end = std::max(begin, std::min(q.pixels - 3 * q.shift - q.first, q.positions));
  const auto pixel = [&](int j, int64_t p) { return q.line[j] + (q.first + p + j * q.shift) * q.stride; };
  uint8_t* out = q.out;
  int64_t next = q.to_odd, after = q.to_even;
  const auto store = [&](const uint8_t* const(&x)[4]) {
    __m512i quads[NP];
    interleave(x, some, quads);
#pragma GCC unroll 4
    for (int i = 0; i < NP; ++i) _mm512_storeu_si512(out + i * kQuadBytes, quads[i]);
    out += next;
    std::swap(next, after);
  };
  for (int64_t p = 0; p < q.positions; ++p) {
    const uint8_t* x[4];
    if (p == begin && begin < end) {
      int64_t step[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        x[j] = q.line[j] ? pixel(j, p) : q.nothing;
        step[j] = q.line[j] ? q.stride : 0;
      }
      for (; p < end; ++p) {
        store(x);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) x[j] += step[j];
      }
      if (p == q.positions) return;
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const int64_t at = q.first + p + j * q.shift;
      x[j] = q.line[j] && at >= 0 && at < q.pixels ? pixel(j, p) : q.nothing;
    }
    store(x);
  }
}

// ---- rows ----

// Sums to bytes: rounding and narrowing keep the order of numbers, so bounds are met last, where most of them are in a
// register.
class Store {
 public:
  MRT_INLINE Store(const QuadFinish& f, int64_t channels)
      : f_(&f),
        zero_(_mm512_set1_epi16(f.zero)),
        lo_(_mm512_set1_epi8(static_cast<char>(f.lo))),
        hi_(_mm512_set1_epi8(static_cast<char>(f.hi))),
        flip_(_mm512_set1_epi8(static_cast<char>(f.flip))),
        there_(first_bytes(channels)) {}

  // Of [PX][NP] sums.
  template <int NP, int PX>
  MRT_INLINE void bytes_of(const __m512i (&acc)[PX * NP], uint8_t* y, int64_t ldy) const {
    if constexpr (NP == 4) {
#pragma GCC unroll 4
      for (int i = 0; i < PX; ++i) {
        const __m512i a = two<0>(acc[4 * i], acc[4 * i + 1]), b = two<2>(acc[4 * i + 2], acc[4 * i + 3]);
        _mm512_mask_storeu_epi8(y + i * ldy, there_, bytes(a, b));
      }
    } else if constexpr (NP == 2) {
      const __m512i order = _mm512_setr_epi32(0, 4, 1, 5, 8, 12, 9, 13, 2, 6, 3, 7, 10, 14, 11, 15);
      const __mmask32 there = static_cast<__mmask32>(there_);
#pragma GCC unroll 2
      for (int i = 0; i < PX; i += 2) {
        const int next = i + 1 < PX ? i + 1 : i;
        const __m512i a = two<0>(acc[2 * i], acc[2 * i + 1]), b = two<0>(acc[2 * next], acc[2 * next + 1]);
        const __m512i pixels = _mm512_permutexvar_epi32(order, bytes(a, b));
        _mm256_mask_storeu_epi8(y + i * ldy, there, _mm512_castsi512_si256(pixels));
        if (next > i) _mm256_mask_storeu_epi8(y + next * ldy, there, _mm512_extracti64x4_epi64(pixels, 1));
      }
    } else {
      static_assert(PX == 4 || PX == 1);
      constexpr int kLast = PX - 1;
      const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
      const __mmask16 there = static_cast<__mmask16>(there_);
      const __m512i a = two<0, 0>(acc[0], acc[kLast / 2]), b = PX > 1 ? two<0, 0>(acc[kLast - 1], acc[kLast]) : a;
      const __m512i pixels = _mm512_permutexvar_epi32(order, bytes(a, b));
      _mm_mask_storeu_epi8(y, there, _mm512_castsi512_si128(pixels));
      if (PX == 1) return;
      _mm_mask_storeu_epi8(y + ldy, there, _mm512_extracti32x4_epi32(pixels, 1));
      _mm_mask_storeu_epi8(y + 2 * ldy, there, _mm512_extracti32x4_epi32(pixels, 2));
      _mm_mask_storeu_epi8(y + 3 * ldy, there, _mm512_extracti32x4_epi32(pixels, 3));
    }
  }

 private:
  MRT_INLINE __m512i rounded(__m512i sum, int p) const {
    const __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_load_ps(f_->scale[p]));
    return _mm512_cvtps_epi32(_mm512_add_ps(x, _mm512_load_ps(f_->bias[p])));
  }
  template <int P, int Q = P + 1>  // the panels that they are of
  MRT_INLINE __m512i two(__m512i first, __m512i second) const {
    return _mm512_adds_epi16(_mm512_packs_epi32(rounded(first, P), rounded(second, Q)), zero_);
  }
  MRT_INLINE __m512i bytes(__m512i first, __m512i second) const {
    const __m512i q = _mm512_max_epu8(_mm512_packus_epi16(first, second), lo_);
    return _mm512_xor_si512(_mm512_min_epu8(q, hi_), flip_);
  }

  const QuadFinish* f_;
  __m512i zero_, lo_, hi_, flip_;
  __mmask64 there_;
};

template <int NP, int PX>
MRT_INLINE void pixels(const QuadRows& r, const Store& store, int64_t row, int64_t p) {
  __m512i acc[PX * NP];  // in one dimension: gcc 12 keeps some of two in memory
#pragma GCC unroll 16
  for (int i = 0; i < PX * NP; ++i) {
    acc[i] = NP > 1 || !r.acc ? _mm512_load_si512(r.finish->start[i % NP]) : _mm512_setzero_si512();
  }
  const int8_t* weights = r.w;
  const uint8_t* const* term = r.x;
  const int64_t at = row * r.row_step + p * (NP * kQuadBytes);
  int64_t left = r.terms;
  do {
    const uint8_t* x = *term++ + at;
    asm("" : "+r"(x));  // or each place behind it would have an index register, and be spilled
    __m512i w[NP];
#pragma GCC unroll 4
    for (int j = 0; j < NP; ++j) w[j] = _mm512_loadu_si512(weights + j * kQuadBytes);
    weights += NP * kQuadBytes;
#pragma GCC unroll 16
    for (int i = 0; i < PX * NP; ++i) {
      acc[i] = _mm512_dpbusd_epi32(acc[i], _mm512_loadu_si512(x + i * kQuadBytes), w[i % NP]);
      asm("" : "+v"(acc[i]));  // where it is: gcc 12 has two registers of each sum, and spills
    }
  } while (--left > 0);
  const int64_t pixel = row * r.pixels + p;
  if (NP > 1 || !r.acc) return store.bytes_of<NP, PX>(acc, r.y + pixel * r.ldy, r.ldy);
#pragma GCC unroll 4
  for (int i = 0; i < PX; ++i) _mm512_storeu_si512(r.acc + (pixel + i) * kQPanel, acc[i]);
}

// Four pixels at a time. What is left of a row has tiles of its own with 64 channels, which most are; with fewer the
// last four are done instead, some of them again.
template <int NP>
void rows(const QuadRows& call) {
  const QuadRows r = call;
  const Store store(*r.finish, r.channels);
  for (int64_t row = 0; row < r.rows; ++row) {
    int64_t p = 0;
    if (NP < 4 && r.pixels >= 4) {
      const int64_t last = r.pixels - 4;
      for (; p < r.pixels; p += 4) pixels<NP, 4>(r, store, row, p < last ? p : last);
      continue;
    }
    if constexpr (NP == 4) {
      for (; p + 4 <= r.pixels; p += 4) pixels<NP, 4>(r, store, row, p);
      if (r.pixels - p == 3) {
        pixels<NP, 3>(r, store, row, p);
        continue;
      }
      if (r.pixels - p == 2) {
        pixels<NP, 2>(r, store, row, p);
        continue;
      }
    }
    for (; p < r.pixels; ++p) pixels<NP, 1>(r, store, row, p);
  }
}

}  // namespace

extern const QuadTable kQuad_avx512 = {
    weights, finish, {nullptr, arrange<2>, arrange<4>}, {stream<1>, stream<2>, stream<4>}, {rows<1>, rows<2>, rows<4>}};

}  // namespace mrt
