// The machine's rates with the baseline's vectors.
#include "kernels/machine/generic.h"

namespace mrt {

const MachineKernel kMachine_scalar = {2 * 4 * kChains, multiply<F32x4>, read<F32x4>};

}  // namespace mrt
