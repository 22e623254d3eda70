// top_k, AVX2.
#include "kernels/top_k/generic.h"

namespace mrt {

const TopKKernel kTopK_avx2 = {narrow, wide};

}  // namespace mrt
