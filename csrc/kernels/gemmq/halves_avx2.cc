#include "kernels/gemmq/halves_generic.h"

namespace mrt {
extern const HalvesTable kHalves_avx2 = halves_table<F32x8, 6>();
}  // namespace mrt
