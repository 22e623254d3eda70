#include "kernels/gemmq/unpack_generic.h"

namespace mrt {
extern const UnpackTable kUnpack_scalar = unpack_table<F32x4>();
}  // namespace mrt
