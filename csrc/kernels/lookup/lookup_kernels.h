// The inner function of lookup that every instruction set fills in.
#pragma once

#include "kernels/checks.h"

namespace mrt {

// y[i] = table[x[i]] for i < n.
struct LookupKernel {
  Isa isa;
  void (*run)(const uint8_t* table, const uint8_t* x, int64_t n, uint8_t* y);
};

#define MRT_KERNEL(isa, name) extern const LookupKernel kLookup_##isa;
#include "kernels/lookup/kernels.inc"
#undef MRT_KERNEL

}  // namespace mrt
