// layer_norm_f32 and rms_norm_f32, AVX-512: sixteen lanes.
#include "kernels/norm/generic.h"

namespace mrt {

const NormKernel kNormF32_avx512 = {layer_norm_row<F32x16>, rms_norm_row<F32x16>};

}  // namespace mrt
