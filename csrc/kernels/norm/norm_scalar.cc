// layer_norm_f32 and rms_norm_f32, portable: four lanes by the compiler.
#include "kernels/norm/generic.h"

namespace mrt {

const NormKernel kNormF32_scalar = {layer_norm_row<F32x4>, rms_norm_row<F32x4>};

}  // namespace mrt
