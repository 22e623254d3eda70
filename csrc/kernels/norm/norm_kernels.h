// The inner functions of layer_norm_f32 and rms_norm_f32 that every instruction set fills in.
#pragma once

#include "kernels/checks.h"

namespace mrt {

// One row of d >= 1 numbers. gamma, beta, residual and sum may be null. The row that is normalised is s = x + residual;
// it is written to sum where that is not null. y and sum may each be x or residual.
struct NormRow {
  const float* x;
  const float* residual;
  const float* gamma;
  const float* beta;
  float* y;
  float* sum;
  int64_t d;
  float epsilon;
};

struct NormKernel {
  void (*layer)(const NormRow& row);  // (s - mean) / sqrt(variance + epsilon) * gamma + beta
  void (*rms)(const NormRow& row);    // s / sqrt(mean of squares + epsilon) * gamma
};

#define MRT_TABLE NormKernel
#define MRT_LIST kNormF32
#define MRT_KERNELS "kernels/norm/kernels.inc"
#include "kernels/kernel_list.inc"

void layer_norm_reference(const NormRow& row);
void rms_norm_reference(const NormRow& row);

}  // namespace mrt
