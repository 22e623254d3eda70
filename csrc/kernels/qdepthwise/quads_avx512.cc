// Depthwise rows over quads with AVX-512 VNNI: a quad is one register.
#include "kernels/depthwise/row.h"
#include "kernels/qdepthwise/quads.h"
#include "kernels/qgemm/fold_avx512.h"
#include "simd/vec.h"

namespace mrt {
namespace {

MRT_INLINE __m512i shifted_or(__m512i low, __m512i high, unsigned bits) {
  return _mm512_or_si512(low, _mm512_slli_epi32(high, bits));
}

// 16 weights of one position of the filter as 32-bit integers, of which the low byte counts.
MRT_INLINE __m512i weights_at(const float* w, const float* next, int64_t tap) {
  const __m256 high = next != nullptr ? _mm256_loadu_ps(next + tap * kChannelBlock) : _mm256_setzero_ps();
  const __m512 both = _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(w + tap * kChannelBlock)), high, 1);
  return _mm512_and_si512(_mm512_cvtps_epi32(both), _mm512_set1_epi32(255));
}

void weights(const float* w, const float* next, int64_t kernel_h, int64_t kernel_w, uint8_t zero, int8_t* out,
             int32_t* offset) {
  const __m512i zeros = _mm512_set1_epi8(static_cast<char>(zero));
  __m512i sum = _mm512_setzero_si512();
  for (int64_t kh = 0; kh < kernel_h; ++kh) {
    for (int64_t kw = 0; kw < kernel_w; kw += 4, out += kQuadBytes) {
      __m512i quad = _mm512_setzero_si512();
      for (int64_t k = 0; k < 4 && kw + k < kernel_w; ++k) {
        quad = shifted_or(quad, weights_at(w, next, kh * kernel_w + kw + k), static_cast<unsigned>(8 * k));
      }
      _mm512_storeu_si512(out, quad);
      sum = _mm512_dpbusd_epi32(sum, zeros, quad);
    }
  }
  _mm512_storeu_si512(offset, sum);
}

// Quads from pairs of pixels next to each other: that of position p is the pairs at its pixel and two further on.
template <int kStep>
void line(const QuadLine& call) {
  const QuadLine q = call;
  const __mmask16 some = static_cast<__mmask16>((1u << q.channels) - 1);
  const __m128i zero = _mm_set1_epi8(static_cast<char>(q.zero));
  const auto pixel = [&](int64_t i) {
    const bool inside = static_cast<uint64_t>(i) < static_cast<uint64_t>(q.pixels);
    return _mm256_cvtepu8_epi16(inside ? _mm_maskz_loadu_epi8(some, q.x + i * q.stride) : zero);
  };
  __m256i last = pixel(q.first);  // the pixel that the next pair begins with
  int64_t next = q.first + 1;
  const auto pair = [&] {
    const __m256i first = last;
    last = pixel(next++);
    return _mm512_cvtepu16_epi32(_mm256_or_si256(first, _mm256_slli_epi16(last, 8)));
  };
  if (kStep == 1) {
    __m512i a = pair(), b = pair();
    for (int64_t p = 0; p < q.positions; ++p) {
      const __m512i c = pair();
      _mm512_storeu_si512(q.out + p * kQuadBytes, shifted_or(a, c, 16));
      a = b;
      b = c;
    }
  } else {
    __m512i a = pair();
    for (int64_t p = 0; p < q.positions; ++p) {
      last = pixel(next++);
      const __m512i b = pair();
      _mm512_storeu_si512(q.out + p * kQuadBytes, shifted_or(a, b, 16));
      a = b;
    }
  }
}

template <int PX>
MRT_INLINE void pixels(const QuadRow& r, int64_t p) {
  __m512i acc[PX];
  const __m512i start = r.folded != nullptr ? _mm512_loadu_si512(r.folded->start) : _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int i = 0; i < PX; ++i) acc[i] = start;
  for (int64_t t = 0; t < r.terms; ++t) {
    const __m512i w = _mm512_loadu_si512(r.w + t * kQuadBytes);
    const uint8_t* const x = r.x[t] + p * kQuadBytes;
#pragma GCC unroll 8
    for (int i = 0; i < PX; ++i) acc[i] = _mm512_dpbusd_epi32(acc[i], _mm512_loadu_si512(x + i * kQuadBytes), w);
  }
  if (r.folded == nullptr) {
#pragma GCC unroll 8
    for (int i = 0; i < PX; ++i) _mm512_storeu_si512(r.acc + (p + i) * kQPanel, acc[i]);
    return;
  }
  FoldedStore (*r.folded)(acc, r.y + p * r.ldy, r.ldy);
}

void row(const QuadRow& call) {
  const QuadRow r = call;  // of our own: what is stored through y could be anything
  int64_t p = 0;
  for (; p + 8 <= r.pixels; p += 8) pixels<8>(r, p);
  switch (r.pixels - p) {  // together: a pixel alone waits for its own sums
    case 7:
      return pixels<7>(r, p);
    case 6:
      return pixels<6>(r, p);
    case 5:
      return pixels<5>(r, p);
    case 4:
      return pixels<4>(r, p);
    case 3:
      return pixels<3>(r, p);
    case 2:
      return pixels<2>(r, p);
    case 1:
      return pixels<1>(r, p);
    default:
      return;
  }
}

}  // namespace

extern const QuadTable kQuad_avx512 = {weights, {line<1>, line<2>}, row};

}  // namespace mrt
