// pool2d_f32, max_pool2d_u8 and global_avg_pool_f32, NEON: four channels, sixteen of bytes.
#include "kernels/pool/generic.h"

namespace mrt {

const PoolKernel kPoolF32_neon = {pool_max<F32x4n>, pool_sum<F32x4n>, pool_max_bytes<16>};

}  // namespace mrt
