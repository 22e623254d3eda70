// Depthwise rows with NEON: 4 channels of up to 4 pixels at once.
#include "kernels/depthwise/row_generic.h"

namespace mrt {
extern const DepthwiseTable kDepthwise_neon = {
    row<F32x4n, 0, 0>, {row<F32x4n, 3, 1>, row<F32x4n, 3, 2>}, {row<F32x4n, 5, 1>, row<F32x4n, 5, 2>}};
}  // namespace mrt
