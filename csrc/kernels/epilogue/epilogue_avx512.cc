// Activations with AVX-512.
#include "kernels/epilogue/epilogue_generic.h"

namespace mrt {
extern const EpilogueTable kEpilogue_avx512 = {apply_epilogue<F32x16>};
}  // namespace mrt
