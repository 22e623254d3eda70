// The inner functions of pool2d_f32 and global_avg_pool_f32 that every instruction set fills in.
#pragma once

#include "kernels/checks.h"

namespace mrt {

// One window of one output pixel: rows x cols taps, all inside the input, each of c channels.
struct PoolWindow {
  const float* x;                  // the first tap
  int64_t row_stride, col_stride;  // between taps, in floats
  int64_t rows, cols;
  int64_t c;
  float* y;
};

struct PoolKernel {
  Isa isa;
  const char* pool_name;
  const char* global_name;
  void (*max)(const PoolWindow& w);                 // -inf where there is no tap; NaN where a tap is NaN
  void (*sum)(const PoolWindow& w, float divisor);  // sum of the taps / divisor
};

#define MRT_KERNEL(isa) extern const PoolKernel kPoolF32_##isa;
#include "kernels/pool/kernels.inc"
#undef MRT_KERNEL

void pool_max_reference(const PoolWindow& w);
void pool_sum_reference(const PoolWindow& w, float divisor);

const PoolKernel* pool_kernel(Isa isa);

}  // namespace mrt
