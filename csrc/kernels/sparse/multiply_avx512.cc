// 64 columns: a vector of them is one load for four sums of a block, and 16 sums wait for nothing. A block of the depth
// then lies in L2, which keeps up (measured on Zen 5: half of its places, in L1, are 9 % faster at 20 % of the weights
// and 8 % slower at 5 %).
#include "kernels/sparse/multiply_generic.h"
#include "kernels/sparse/multiply_row.h"

namespace mrt {
extern const SparseTable kSparse_avx512 = {
    16,
    {4, 4},
    {multiply_single<Lane, 1, 4>, multiply_single<F32x16, 1, 4>, multiply_single<F32x16, 2, 4>,
     multiply_single<F32x16, 3, 4>, multiply_single<F32x16, 4, 4>},
    {multiply_blocked_row, multiply_blocked<F32x16, 1>, multiply_blocked<F32x16, 2>, multiply_blocked<F32x16, 3>,
     multiply_blocked<F32x16, 4>},
    load<F32x16>,
    transpose};
}  // namespace mrt
