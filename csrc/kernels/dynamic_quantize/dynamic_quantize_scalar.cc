#include "kernels/dynamic_quantize/generic.h"

namespace mrt {

extern const DynamicQuantizeKernel kDynamicQuantize_scalar;
const DynamicQuantizeKernel kDynamicQuantize_scalar = {value_range<F32x4>, to_bytes<F32x4>};

}  // namespace mrt
