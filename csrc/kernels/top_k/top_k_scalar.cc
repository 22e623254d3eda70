// top_k, portable.
#include "kernels/top_k/generic.h"

namespace mrt {

const TopKKernel kTopK_scalar = {narrow, wide};

}  // namespace mrt
