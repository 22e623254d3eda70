// pool2d_f32, max_pool2d_u8 and global_avg_pool_f32, portable: four channels by the compiler.
#include "kernels/pool/generic.h"

namespace mrt {

const PoolKernel kPoolF32_scalar = {pool_max<F32x4>, pool_sum<F32x4>, pool_max_bytes<16>};

}  // namespace mrt
