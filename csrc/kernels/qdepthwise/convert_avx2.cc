// Conversions around depthwise rows with AVX2.
#include "kernels/qdepthwise/convert_generic.h"

namespace mrt {
extern const QDepthwiseTable kQDepthwise_avx2 = {widen<F32x8>, to_ints<F32x8>};
}  // namespace mrt
