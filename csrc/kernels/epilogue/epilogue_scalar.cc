// Activations with the baseline's vectors.
#include "kernels/epilogue/epilogue_generic.h"

namespace mrt {
extern const EpilogueTable kEpilogue_scalar = {apply_epilogue<F32x4>};
}  // namespace mrt
