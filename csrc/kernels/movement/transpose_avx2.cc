// transpose, AVX2: blocks of 8 x 8 elements of four bytes in eight registers.
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

void transpose_u32(const uint32_t* src, int64_t ss, uint32_t* dst, int64_t ds, int64_t rows, int64_t cols) {
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

const TransposeKernel kTranspose_avx2 = {transpose_blocks<uint8_t>, transpose_blocks<uint16_t>, transpose_u32,
                                         transpose_blocks<uint64_t>};

}  // namespace mrt
