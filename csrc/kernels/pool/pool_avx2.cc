// pool2d_f32, max_pool2d_u8 and global_avg_pool_f32, AVX2: eight channels.
#include "kernels/pool/generic.h"

namespace mrt {

const PoolKernel kPoolF32_avx2 = {pool_max<F32x8>, pool_sum<F32x8>, pool_max_bytes<32>};

}  // namespace mrt
