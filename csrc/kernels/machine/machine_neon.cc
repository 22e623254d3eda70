// The machine's rates with NEON.
#include "kernels/machine/generic.h"

namespace mrt {

const MachineKernel kMachine_neon = {2 * 4 * kChains, multiply<F32x4n>, read<F32x4n>};

}  // namespace mrt
