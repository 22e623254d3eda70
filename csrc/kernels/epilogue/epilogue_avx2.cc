// Activations with AVX2 and FMA.
#include "kernels/epilogue/epilogue_generic.h"

namespace mrt {
extern const EpilogueTable kEpilogue_avx2 = {apply_epilogue<F32x8>};
}  // namespace mrt
