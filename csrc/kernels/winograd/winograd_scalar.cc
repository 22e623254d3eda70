// Winograd transforms with the baseline's vectors: four channels.
#include "kernels/winograd/generic.h"

namespace mrt {

const WinogradKernel kWinogradF32_scalar = {{"2x2_scalar", "4x4_scalar"},
                                            {input_tile<F32x4, 2>, input_tile<F32x4, 4>},
                                            {output_tile<F32x4, 2>, output_tile<F32x4, 4>}};

}  // namespace mrt
