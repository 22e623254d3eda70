// pool2d_f32 and global_avg_pool_f32, portable: four channels by the compiler.
#include "kernels/pool/generic.h"

namespace mrt {

const PoolKernel kPoolF32_scalar = {Isa::scalar, "pool2d_f32_scalar", "global_avg_pool_f32_scalar", pool_max<F32x4>,
                                    pool_sum<F32x4>};

}  // namespace mrt
