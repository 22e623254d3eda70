// What layer_norm_f32 and rms_norm_f32 share: their tables, their shapes and the loop over rows.
#pragma once

#include "kernels/norm/norm_kernels.h"

namespace mrt {

struct NormParams {
  const NormKernel* kernel;
  double epsilon;
};

// Positions of the optional inputs; -1 for what the contract does not have.
struct NormInputs {
  const char* contract;
  int gamma, beta, residual, count;
};

Status norm_prepare(const char* contract, const Attrs& attrs, Isa isa, void* params);
Status norm_check(const NormInputs& inputs, const Tensor* in, int n_in, const Tensor* out, int n_out);
int32_t norm_run(const NormInputs& inputs, void (*row)(const NormRow&), const void* params, const Tensor* in, int n_in,
                 const Tensor* out, int n_out, KernelContext& ctx);

}  // namespace mrt
