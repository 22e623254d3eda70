#include "kernels/dynamic_quantize/generic.h"

namespace mrt {

extern const DynamicQuantizeKernel kDynamicQuantize_neon;
const DynamicQuantizeKernel kDynamicQuantize_neon = {value_range<F32x4n>, to_bytes<F32x4n>};

}  // namespace mrt
