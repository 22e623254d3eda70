// transpose, portable: blocks of 8 x 8 elements.
#include "kernels/movement/transpose_generic.h"

namespace mrt {

const TransposeKernel kTranspose_scalar = {transpose_blocks<uint8_t>, transpose_blocks<uint16_t>,
                                           transpose_blocks<uint32_t>, transpose_blocks<uint64_t>};

}  // namespace mrt
