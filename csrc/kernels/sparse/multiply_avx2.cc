// 32 columns for single weights: an entry is four multiply-adds, in two chains, and five loads. 16 for blocks: eight
// sums, to which an entry of six loads adds, so that the loads keep up with the multiply-adds.
#include "kernels/sparse/multiply_generic.h"
#include "kernels/sparse/multiply_row.h"

namespace mrt {
extern const SparseTable kSparse_avx2 = {
    8,
    {4, 3},
    {nullptr, multiply_single<F32x8, 1, 2>, multiply_single<F32x8, 2, 2>, multiply_single<F32x8, 3, 2>,
     multiply_single<F32x8, 4, 2>},
    {multiply_blocked_row, multiply_blocked<F32x8, 1>, multiply_blocked<F32x8, 2>, multiply_blocked<F32x8, 3>, nullptr},
    load<F32x8>,
    transpose};
}  // namespace mrt
