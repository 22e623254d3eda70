// The inner functions of pool2d_f32, max_pool2d_u8 and global_avg_pool_f32 that every instruction set fills in.
#pragma once

#include "kernels/checks.h"

namespace mrt {

// One window of one output pixel: rows x cols taps, all inside the input, each of c channels.
template <typename T>
struct PoolWindowOf {
  const T* x;                      // the first tap
  int64_t row_stride, col_stride;  // between taps, in elements
  int64_t rows, cols;
  int64_t c;
  T* y;
};
using PoolWindow = PoolWindowOf<float>;

struct PoolKernel {
  void (*max)(const PoolWindow& w);                 // -inf where there is no tap; NaN where a tap is NaN
  void (*sum)(const PoolWindow& w, float divisor);  // sum of the taps / divisor
  void (*max_bytes)(const PoolWindowOf<uint8_t>& w);
};

#define MRT_TABLE PoolKernel
#define MRT_LIST kPoolF32
#define MRT_KERNELS "kernels/pool/kernels.inc"
#include "kernels/kernel_list.inc"

template <typename T>  // of float and uint8_t
void pool_max_reference(const PoolWindowOf<T>& w);
void pool_sum_reference(const PoolWindow& w, float divisor);

}  // namespace mrt
