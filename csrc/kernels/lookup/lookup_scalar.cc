// lookup, portable.
#include "kernels/lookup/lookup_kernels.h"

namespace mrt {
namespace {

void look_up(const uint8_t* table, const uint8_t* x, int64_t n, uint8_t* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = table[x[i]];
}

}  // namespace

const LookupKernel kLookup_scalar = {look_up};

}  // namespace mrt
