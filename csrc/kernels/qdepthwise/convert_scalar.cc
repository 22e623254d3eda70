// Conversions around depthwise rows with the baseline's vectors.
#include "kernels/qdepthwise/convert_generic.h"

namespace mrt {
extern const QDepthwiseTable kQDepthwise_scalar = {widen<F32x4>, to_ints<F32x4>};
}  // namespace mrt
