// resize2d_f32, AVX2 and FMA: eight lanes.
#include "kernels/resize/generic.h"

namespace mrt {

const ResizeKernel kResizeF32_avx2 = {resize_blend<F32x8>, resize_row<F32x8>};

}  // namespace mrt
