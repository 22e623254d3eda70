#include "kernels/gemmq/unpack_generic.h"

namespace mrt {
extern const UnpackTable kUnpack_avx512 = unpack_table<F32x16>();
}  // namespace mrt
