// softmax_f32, AVX-512: sixteen lanes.
#include "kernels/softmax/generic.h"
#include "kernels/softmax/softmax_kernels.h"

namespace mrt {

const SoftmaxKernel kSoftmaxF32_avx512 = {softmax_rows<F32x16>};

}  // namespace mrt
