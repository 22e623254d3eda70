// resize2d_f32, NEON: four lanes.
#include "kernels/resize/generic.h"

namespace mrt {

const ResizeKernel kResizeF32_neon = {resize_blend<F32x4n>, resize_row<F32x4n>};

}  // namespace mrt
