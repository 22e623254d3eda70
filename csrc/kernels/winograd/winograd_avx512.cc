// Winograd transforms with AVX-512: sixteen channels.
#include "kernels/winograd/generic.h"

namespace mrt {

const WinogradKernel kWinogradF32_avx512 = {{"2x2_avx512", "4x4_avx512"},
                                            {input_tile<F32x16, 2>, input_tile<F32x16, 4>},
                                            {output_tile<F32x16, 2>, output_tile<F32x16, 4>}};

}  // namespace mrt
