#include "kernels/sparse/multiply_generic.h"

namespace mrt {
extern const SparseTable kSparse_scalar = {
    4,
    {4, 2},
    {nullptr, multiply_single<F32x4, 1, 2>, multiply_single<F32x4, 2, 2>, multiply_single<F32x4, 3, 2>,
     multiply_single<F32x4, 4, 2>},
    {nullptr, multiply_blocked<F32x4, 1>, multiply_blocked<F32x4, 2>, nullptr, nullptr},
    load<F32x4>,
    transpose};
}  // namespace mrt
