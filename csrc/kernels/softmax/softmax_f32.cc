// softmax_f32: softmax, or its logarithm, over the last dimension.
//
// x [..., D] -> y [..., D]; attribute log [0]. A row that holds NaN, more than one reason for infinity or nothing but
// -inf is NaN throughout, as in torch.
#include "kernels/softmax/softmax_kernels.h"

namespace mrt {
namespace {

constexpr const char* kContract = "softmax_f32";

struct Params {
  const SoftmaxKernel* kernel;
  int64_t log;
};

const SoftmaxKernel* const kTables[] = {
#define MRT_KERNEL(isa) &kSoftmaxF32_##isa,
#include "kernels/softmax/kernels.inc"
#undef MRT_KERNEL
    nullptr};
const char* const kNames[] = {
#define MRT_KERNEL(isa) "softmax_f32_" #isa,
#include "kernels/softmax/kernels.inc"
#undef MRT_KERNEL
    nullptr};

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  Params* p = static_cast<Params*>(params);
  p->kernel = kernel_of(kTables, isa);
  return attr_int(attrs, kContract, "log", 0, 1, &p->log);
}

Status check(const void*, const Tensor* in, int, const Tensor* out, int) {
  MRT_TRY(check_f32(kContract, "x", in[0], -1));
  if (in[0].ndim == 0) return fail(MRT_ERROR_SHAPE, "%s: x has no dimensions, expected at least 1", kContract);
  MRT_TRY(check_f32(kContract, "y", out[0], -1));
  return check_same_shape(kContract, "y", out[0], in[0]);
}

size_t scratch(const void*, const Tensor*, int, const Tensor*, int, int32_t) { return 0; }

int32_t run(const void* params, const Tensor* in, int, const Tensor* out, int, KernelContext& ctx) {
  const Params* p = static_cast<const Params*>(params);
  if (has_no_elements(in[0])) return MRT_OK;
  const int64_t d = in[0].shape[in[0].ndim - 1], rows = in[0].extent(0, in[0].ndim - 1);
  const auto softmax = p->kernel == nullptr ? softmax_reference : p->kernel->rows;
  const float* x = in[0].as<float>();
  float* y = out[0].as<float>();
  parallel_ranges(ctx, rows, 8192 / d, [&](int64_t begin, int64_t end) {
    softmax(x + begin * d, y + begin * d, end - begin, d, p->log != 0);
  });
  return MRT_OK;
}

const char* kernel_name(const void* params, const Tensor*, int, const Tensor*, int) {
  const SoftmaxKernel* kernel = static_cast<const Params*>(params)->kernel;
  return kernel == nullptr ? "softmax_f32_reference" : kernel->name;
}

// Comparison, subtraction, exponential (counted as 8), sum and scaling.
double flops(const void*, const Tensor* in, int, const Tensor*, int) { return 12.0 * element_count(in[0]); }

}  // namespace

extern const Operator kSoftmaxF32Operator;
const Operator kSoftmaxF32Operator = {
    kContract, nullptr, kNames,  sizeof(Params), prepare, check,        scratch,
    run,       nullptr, nullptr, kernel_name,    flops,   {1, 1, 1, 1}, batched_inputs<0b1>};

}  // namespace mrt
