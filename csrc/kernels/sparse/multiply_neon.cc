// 16 columns: 4 sums for single weights, in two chains, and 16 for blocks.
#include "kernels/sparse/multiply_generic.h"

namespace mrt {
extern const SparseTable kSparse_neon = {4,
                                         {4, 4},
                                         {nullptr, multiply_single<F32x4n, 1, 2>, multiply_single<F32x4n, 2, 2>,
                                          multiply_single<F32x4n, 3, 2>, multiply_single<F32x4n, 4, 2>},
                                         {nullptr, multiply_blocked<F32x4n, 1>, multiply_blocked<F32x4n, 2>,
                                          multiply_blocked<F32x4n, 3>, multiply_blocked<F32x4n, 4>},
                                         load<F32x4n>,
                                         transpose};
}  // namespace mrt
