// The inner function of softmax_f32 that every instruction set fills in.
#pragma once

#include "kernels/checks.h"

namespace mrt {

struct SoftmaxKernel {
  // y = softmax(x) or, with log, log(softmax(x)) of rows of d >= 1 numbers. y may be x.
  void (*rows)(const float* x, float* y, int64_t rows, int64_t d, bool log);
};

#define MRT_TABLE SoftmaxKernel
#define MRT_LIST kSoftmaxF32
#define MRT_KERNELS "kernels/softmax/kernels.inc"
#include "kernels/kernel_list.inc"

void softmax_reference(const float* x, float* y, int64_t rows, int64_t d, bool log);

}  // namespace mrt
