// Winograd transforms with AVX2 and FMA: eight channels.
#include "kernels/winograd/generic.h"

namespace mrt {

const WinogradKernel kWinogradF32_avx2 = {{"2x2_avx2", "4x4_avx2"},
                                          {input_tile<F32x8, 2>, input_tile<F32x8, 4>},
                                          {output_tile<F32x8, 2>, output_tile<F32x8, 4>}};

}  // namespace mrt
