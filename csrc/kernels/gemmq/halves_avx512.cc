#include "kernels/gemmq/halves_generic.h"

namespace mrt {
extern const HalvesTable kHalves_avx512 = halves_table<F32x16, 8>();
}  // namespace mrt
