// Conversions around depthwise rows with AVX2.
#include "kernels/qdepthwise/convert_generic.h"

namespace mrt {
extern const QDepthwiseTable kQDepthwiseAvx2 = {Isa::avx2, widen<F32x8>, to_ints<F32x8>,
                                                "depthwise_conv2d_u8s8_4x8_avx2"};
}  // namespace mrt
