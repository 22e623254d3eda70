#include "kernels/dynamic_quantize/generic.h"

namespace mrt {

extern const DynamicQuantizeKernel kDynamicQuantize_avx2;
const DynamicQuantizeKernel kDynamicQuantize_avx2 = {value_range<F32x8>, to_bytes<F32x8>};

}  // namespace mrt
