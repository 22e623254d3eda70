#include "kernels/gemmq/unpack_generic.h"

namespace mrt {
extern const UnpackTable kUnpack_neon = unpack_table<F32x4n>();
}  // namespace mrt
