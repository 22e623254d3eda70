// Depthwise rows with the baseline's vectors of four.
#include "kernels/depthwise/row_generic.h"

namespace mrt {
extern const DepthwiseTable kDepthwise_scalar = {
    row<F32x4, 0, 0>, {row<F32x4, 3, 1>, row<F32x4, 3, 2>}, {row<F32x4, 5, 1>, row<F32x4, 5, 2>}};
}  // namespace mrt
