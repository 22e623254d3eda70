// softmax_f32, portable: four lanes by the compiler.
#include "kernels/softmax/generic.h"
#include "kernels/softmax/softmax_kernels.h"

namespace mrt {

const SoftmaxKernel kSoftmaxF32_scalar = {softmax_rows<F32x4>};

}  // namespace mrt
