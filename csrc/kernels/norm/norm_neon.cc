// layer_norm_f32 and rms_norm_f32, NEON: four lanes.
#include "kernels/norm/generic.h"

namespace mrt {

extern const NormKernel kNormF32_neon = {layer_norm_row<F32x4n>, rms_norm_row<F32x4n>};

}  // namespace mrt
