// softmax_f32, NEON: four lanes.
#include "kernels/softmax/generic.h"
#include "kernels/softmax/softmax_kernels.h"

namespace mrt {

const SoftmaxKernel kSoftmaxF32_neon = {softmax_rows<F32x4n>};

}  // namespace mrt
