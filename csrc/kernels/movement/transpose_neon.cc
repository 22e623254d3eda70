// transpose, NEON: blocks of 8 x 8 elements of four bytes, in registers.
#include "kernels/movement/transpose_generic.h"
#include "simd/transpose8x8.h"

namespace mrt {
namespace {

void transpose_u32(const uint32_t* src, int64_t ss, uint32_t* dst, int64_t ds, int64_t rows, int64_t cols) {
  int64_t c = 0;
  for (; c + 8 <= cols; c += 8) {
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8)
      transpose8x8(reinterpret_cast<const float*>(src + r * ss + c), ss, reinterpret_cast<float*>(dst + c * ds + r),
                   ds);
    transpose_edge(src + r * ss + c, ss, dst + c * ds + r, ds, rows - r, int64_t{8});
  }
  transpose_edge(src + c, ss, dst + c * ds, ds, rows, cols - c);
}

}  // namespace

const TransposeKernel kTranspose_neon = {transpose_blocks<uint8_t>, transpose_blocks<uint16_t>, transpose_u32,
                                         transpose_blocks<uint64_t>};

}  // namespace mrt
