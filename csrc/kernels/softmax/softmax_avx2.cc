// softmax_f32, AVX2 and FMA: eight lanes.
#include "kernels/softmax/generic.h"
#include "kernels/softmax/softmax_kernels.h"

namespace mrt {

const SoftmaxKernel kSoftmaxF32_avx2 = {softmax_rows<F32x8>};

}  // namespace mrt
