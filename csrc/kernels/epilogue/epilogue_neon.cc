// Activations with NEON.
#include "kernels/epilogue/epilogue_generic.h"

namespace mrt {
extern const EpilogueTable kEpilogue_neon = {apply_epilogue<F32x4n>};
}  // namespace mrt
