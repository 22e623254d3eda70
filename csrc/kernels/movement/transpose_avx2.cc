// transpose, AVX2: blocks of 8 x 8 elements of four bytes in eight registers, of bytes in four.
#include "kernels/movement/transpose_generic.h"
#include "simd/transpose8x8.h"

namespace mrt {
namespace {

MRT_INLINE void block8x8(const uint32_t* src, int64_t src_stride, uint32_t* dst, int64_t dst_stride) {
  transpose8x8(reinterpret_cast<const float*>(src), src_stride, reinterpret_cast<float*>(dst), dst_stride);
}

// Up to four rows whose elements lie side by side in dst (the channels of an image): four columns at a time, each
// stored as four elements, of which the next column's overwrite those that are not its own.
int64_t narrow(const uint32_t* src, int64_t ss, uint32_t* dst, int64_t rows, int64_t cols) {
  const float* const x = reinterpret_cast<const float*>(src);
  float* y = reinterpret_cast<float*>(dst);
  int64_t c = 0;
  for (; (c + 3) * rows + 4 <= cols * rows; c += 4, y += 4 * rows) {
    __m128 r0 = _mm_loadu_ps(x + c), r1 = _mm_loadu_ps(x + ss + c);
    __m128 r2 = rows > 2 ? _mm_loadu_ps(x + 2 * ss + c) : r0, r3 = rows > 3 ? _mm_loadu_ps(x + 3 * ss + c) : r0;
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
    _mm_storeu_ps(y, r0);
    _mm_storeu_ps(y + rows, r1);
    _mm_storeu_ps(y + 2 * rows, r2);
    _mm_storeu_ps(y + 3 * rows, r3);
  }
  return c;
}

MRT_INLINE __m128i load8(const uint8_t* p) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)); }
MRT_INLINE __m128i load16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
MRT_INLINE void store16(uint8_t* p, __m128i x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x); }

MRT_INLINE void block8x8(const uint8_t* src, int64_t ss, uint8_t* dst, int64_t ds) {
  __m128i two[4];  // rows 2 i and 2 i + 1, column by column
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) two[i] = _mm_unpacklo_epi8(load8(src + 2 * i * ss), load8(src + (2 * i + 1) * ss));
  const __m128i a = _mm_unpacklo_epi16(two[0], two[1]), b = _mm_unpackhi_epi16(two[0], two[1]);
  const __m128i c = _mm_unpacklo_epi16(two[2], two[3]), d = _mm_unpackhi_epi16(two[2], two[3]);
  const __m128i columns[4] = {_mm_unpacklo_epi32(a, c), _mm_unpackhi_epi32(a, c), _mm_unpacklo_epi32(b, d),
                              _mm_unpackhi_epi32(b, d)};
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(dst + 2 * i * ds), columns[i]);
    _mm_storeh_pi(reinterpret_cast<__m64*>(dst + (2 * i + 1) * ds), _mm_castsi128_ps(columns[i]));
  }
}

// As above, of bytes: sixteen columns at a time.
int64_t narrow(const uint8_t* src, int64_t ss, uint8_t* dst, int64_t rows, int64_t cols) {
  alignas(16) uint8_t own[16] = {};  // the bytes of four columns that are theirs
  for (int64_t i = 0; i < 4 * rows; ++i) own[i] = static_cast<uint8_t>(i / rows * 4 + i % rows);
  const __m128i order = load16(own);
  int64_t c = 0;
  for (; (c + 12) * rows + 16 <= cols * rows; c += 16, dst += 16 * rows) {
    const __m128i r0 = load16(src + c), r1 = load16(src + ss + c);
    const __m128i r2 = rows > 2 ? load16(src + 2 * ss + c) : r0, r3 = rows > 3 ? load16(src + 3 * ss + c) : r0;
    const __m128i a = _mm_unpacklo_epi8(r0, r1), b = _mm_unpackhi_epi8(r0, r1);
    const __m128i d = _mm_unpacklo_epi8(r2, r3), e = _mm_unpackhi_epi8(r2, r3);
    store16(dst, _mm_shuffle_epi8(_mm_unpacklo_epi16(a, d), order));
    store16(dst + 4 * rows, _mm_shuffle_epi8(_mm_unpackhi_epi16(a, d), order));
    store16(dst + 8 * rows, _mm_shuffle_epi8(_mm_unpacklo_epi16(b, e), order));
    store16(dst + 12 * rows, _mm_shuffle_epi8(_mm_unpackhi_epi16(b, e), order));
  }
  return c;
}

template <typename T>
void transpose_8x8(const T* src, int64_t ss, T* dst, int64_t ds, int64_t rows, int64_t cols) {
  int64_t c = 0;
  if (rows >= 2 && rows <= 4 && ds == rows) c = narrow(src, ss, dst, rows, cols);
  for (; c + 8 <= cols; c += 8) {
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8) block8x8(src + r * ss + c, ss, dst + c * ds + r, ds);
    transpose_edge(src + r * ss + c, ss, dst + c * ds + r, ds, rows - r, int64_t{8});
  }
  transpose_edge(src + c, ss, dst + c * ds, ds, rows, cols - c);
}

}  // namespace

const TransposeKernel kTranspose_avx2 = {transpose_8x8<uint8_t>, transpose_blocks<uint16_t>, transpose_8x8<uint32_t>,
                                         transpose_blocks<uint64_t>};

}  // namespace mrt
