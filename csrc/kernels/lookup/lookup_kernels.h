// The inner function of lookup that every instruction set fills in.
#pragma once

#include "kernels/checks.h"

namespace mrt {

// y[i] = table[x[i]] for i < n.
struct LookupKernel {
  void (*run)(const uint8_t* table, const uint8_t* x, int64_t n, uint8_t* y);
};

#define MRT_TABLE LookupKernel
#define MRT_LIST kLookup
#define MRT_KERNELS "kernels/lookup/kernels.inc"
#include "kernels/kernel_list.inc"

}  // namespace mrt
