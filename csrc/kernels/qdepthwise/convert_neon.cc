// Conversions around depthwise rows with NEON.
#include "kernels/qdepthwise/convert_generic.h"

namespace mrt {
extern const QDepthwiseTable kQDepthwise_neon = {widen<F32x4n>, to_ints<F32x4n>};
}  // namespace mrt
