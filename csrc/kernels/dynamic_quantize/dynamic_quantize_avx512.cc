#include "kernels/dynamic_quantize/generic.h"

namespace mrt {

extern const DynamicQuantizeKernel kDynamicQuantize_avx512;
const DynamicQuantizeKernel kDynamicQuantize_avx512 = {value_range<F32x16>, to_bytes<F32x16>};

}  // namespace mrt
