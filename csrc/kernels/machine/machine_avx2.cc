// The machine's rates with AVX2 and FMA.
#include "kernels/machine/generic.h"

namespace mrt {

const MachineKernel kMachine_avx2 = {2 * 8 * kChains, multiply<F32x8>, read<F32x8>};

}  // namespace mrt
