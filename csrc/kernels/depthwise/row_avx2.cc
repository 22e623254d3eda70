// Depthwise rows with AVX2 and FMA: 8 channels of up to 4 pixels at once.
#include "kernels/depthwise/row_generic.h"

namespace mrt {
extern const DepthwiseTable kDepthwise_avx2 = {
    row<F32x8, 0, 0>, {row<F32x8, 3, 1>, row<F32x8, 3, 2>}, {row<F32x8, 5, 1>, row<F32x8, 5, 2>}};
}  // namespace mrt
