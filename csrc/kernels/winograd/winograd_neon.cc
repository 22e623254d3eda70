// Winograd transforms with NEON: four channels.
#include "kernels/winograd/generic.h"

namespace mrt {

const WinogradKernel kWinogradF32_neon = {{"2x2_neon", "4x4_neon"},
                                          {input_tile<F32x4n, 2>, input_tile<F32x4n, 4>},
                                          {output_tile<F32x4n, 2>, output_tile<F32x4n, 4>}};

}  // namespace mrt
