#include "kernels/gemmq/unpack_generic.h"

namespace mrt {
extern const UnpackTable kUnpack_avx2 = unpack_table<F32x8>();
}  // namespace mrt
