// layer_norm_f32: (s - mean) / sqrt(variance + epsilon) * gamma + beta over the last dimension,
// s = x + residual. Inputs x [..., D], gamma? [D], beta? [D], residual? like x; outputs y and, where asked for, s.
// Attribute epsilon [1e-5].
#include "kernels/norm/norm_driver.h"

namespace mrt {
namespace {

constexpr const char* kContract = "layer_norm_f32";
constexpr NormInputs kInputs = {kContract, 1, 2, 3, 4};

const char* const kNames[] = {
#define MRT_KERNEL(isa) "layer_norm_f32_" #isa,
#include "kernels/norm/kernels.inc"
#undef MRT_KERNEL
    nullptr};

Status prepare(const Attrs& attrs, Isa isa, void* params) { return norm_prepare(kContract, attrs, isa, params); }

Status check(const void*, const Tensor* in, int n_in, const Tensor* out, int n_out) {
  return norm_check(kInputs, in, n_in, out, n_out);
}

size_t scratch(const void*, const Tensor*, int, const Tensor*, int, int32_t) { return 0; }

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out, KernelContext& ctx) {
  const NormKernel* kernel = static_cast<const NormParams*>(params)->kernel;
  return norm_run(kInputs, kernel == nullptr ? layer_norm_reference : kernel->layer, params, in, n_in, out, n_out, ctx);
}

const char* kernel_name(const void* params, const Tensor*, int, const Tensor*, int) {
  const NormKernel* kernel = static_cast<const NormParams*>(params)->kernel;
  return kernel == nullptr ? "layer_norm_f32_reference" : kernel->layer_name;
}

double flops(const void*, const Tensor* in, int, const Tensor*, int) { return 8.0 * element_count(in[0]); }

}  // namespace

extern const Operator kLayerNormF32Operator;
const Operator kLayerNormF32Operator = {
    kContract, nullptr, kNames,  sizeof(NormParams), prepare, check,        scratch,
    run,       nullptr, nullptr, kernel_name,        flops,   {1, 4, 1, 2}, batched_inputs<0b1001>};

}  // namespace mrt
