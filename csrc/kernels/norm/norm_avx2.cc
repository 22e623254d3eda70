// layer_norm_f32 and rms_norm_f32, AVX2 and FMA: eight lanes.
#include "kernels/norm/generic.h"

namespace mrt {

const NormKernel kNormF32_avx2 = {layer_norm_row<F32x8>, rms_norm_row<F32x8>};

}  // namespace mrt
