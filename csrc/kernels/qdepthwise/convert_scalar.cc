// Conversions around depthwise rows with the baseline's vectors.
#include "kernels/qdepthwise/convert_generic.h"

namespace mrt {
extern const QDepthwiseTable kQDepthwiseScalar = {Isa::scalar, widen<F32x4>, to_ints<F32x4>,
                                                  "depthwise_conv2d_u8s8_4x4_scalar"};
}  // namespace mrt
