// transpose, AVX2: blocks of 8 x 8 elements of four bytes in eight registers.
#include "kernels/movement/transpose_generic.h"

namespace mrt {
namespace {

// Pairs, then quads of rows are interleaved within 128-bit halves, then the halves change places.
MRT_INLINE void block8x8(const uint32_t* src, int64_t ss, uint32_t* dst, int64_t ds) {
  const float* s = reinterpret_cast<const float*>(src);
  float* d = reinterpret_cast<float*>(dst);
  __m256 a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(s + i * ss);
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    a[4 * i] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0x44);
    a[4 * i + 1] = _mm256_shuffle_ps(b[4 * i], b[4 * i + 2], 0xee);
    a[4 * i + 2] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0x44);
    a[4 * i + 3] = _mm256_shuffle_ps(b[4 * i + 1], b[4 * i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(d + i * ds, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
    _mm256_storeu_ps(d + (i + 4) * ds, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  }
}

void transpose_u32(const uint32_t* src, int64_t ss, uint32_t* dst, int64_t ds, int64_t rows, int64_t cols) {
  int64_t c = 0;
  for (; c + 8 <= cols; c += 8) {
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8) block8x8(src + r * ss + c, ss, dst + c * ds + r, ds);
    transpose_edge(src + r * ss + c, ss, dst + c * ds + r, ds, rows - r, int64_t{8});
  }
  transpose_edge(src + c, ss, dst + c * ds, ds, rows, cols - c);
}

}  // namespace

const TransposeKernel kTranspose_avx2 = {
    Isa::avx2,     "transpose_avx2",          transpose_blocks<uint8_t>, transpose_blocks<uint16_t>,
    transpose_u32, transpose_blocks<uint64_t>};

}  // namespace mrt
