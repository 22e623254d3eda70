// resize2d_f32, portable: four lanes by the compiler.
#include "kernels/resize/generic.h"

namespace mrt {

const ResizeKernel kResizeF32_scalar = {resize_blend<F32x4>, resize_row<F32x4>};

}  // namespace mrt
