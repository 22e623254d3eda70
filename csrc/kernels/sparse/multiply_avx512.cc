// 32 columns: with more of them a block of the depth is larger than L1.
#include "kernels/sparse/multiply_generic.h"

namespace mrt {
extern const SparseTable kSparse_avx512 = {
    16,
    {2, 2},
    {nullptr, multiply_single<F32x16, 1, 4>, multiply_single<F32x16, 2, 4>, nullptr, nullptr},
    {nullptr, multiply_blocked<F32x16, 1>, multiply_blocked<F32x16, 2>, nullptr, nullptr},
    load,
    transpose};
}  // namespace mrt
