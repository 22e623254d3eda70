#include "kernels/gemmq/halves_generic.h"

namespace mrt {
extern const HalvesTable kHalves_scalar = halves_table<F32x4, 3>();
}  // namespace mrt
