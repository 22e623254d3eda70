// What this machine can do at most: the roofline that a profile is held against.
#pragma once

#include "kernels/checks.h"

namespace mrt {

// Two loops that every instruction set fills in.
struct MachineKernel {
  int64_t flops;  // of one round
  // Rounds of independent multiply-adds; the result only keeps them from being left out.
  float (*multiply)(int64_t rounds);
  float (*read)(const float* data, int64_t count);  // count: a multiple of 64
};

#define MRT_TABLE MachineKernel
#define MRT_LIST kMachine
#define MRT_KERNELS "kernels/machine/kernels.inc"
#include "kernels/kernel_list.inc"

struct MachineRates {
  double gflops;  // float32 multiply-adds, two operations each
  double gbps;    // 10^9 bytes a second, read from memory
};

// With so many threads at once; the best of a few short loops, about 50 ms. MRT_ERROR_OUT_OF_MEMORY without room for a
// buffer that no cache holds.
Status machine_rates(int32_t threads, MachineRates* out);

}  // namespace mrt
