#include "kernels/gemmq/halves_generic.h"

namespace mrt {
extern const HalvesTable kHalves_neon = halves_table<F32x4n, 6>();
}  // namespace mrt
