// softmax_f32: softmax, or its logarithm, over the last dimension.
//
// A row that holds NaN, more than one reason for infinity or nothing but
// -inf is NaN throughout, as in torch.
#include "kernels/softmax/softmax_kernels.h"

namespace mrt {
namespace {

constexpr const char* kName = "softmax_f32";

constexpr Operand kInputs[] = {{"x", kF32, kAnyRank, kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("log", 0, 1, 0)};
constexpr Contract kContract = {kName, "", kInputs, kOutputs, kAttributes};

struct Params {
  const SoftmaxKernel* kernel;
  int64_t log;
};

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  Params* p = static_cast<Params*>(params);
  p->kernel = kSoftmaxF32[isa];
  return attr_int(attrs, "log", &p->log);
}

Status check(const void*, const Tensor* in, int, const Tensor* out, int) {
  if (in[0].ndim == 0) return fail(MRT_ERROR_SHAPE, "%s: x has no dimensions, expected at least 1", kName);
  return check_same_shape(kName, "y", out[0], in[0]);
}

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

// Comparison, subtraction, exponential (counted as 8), sum and scaling.
double flops(const void*, const Tensor* in, int, const Tensor*, int) { return 12.0 * element_count(in[0]); }

}  // namespace

const Operator kOperator_softmax_f32 = {&kContract, kSoftmaxF32.rows, sizeof(Params), prepare, check,
                                        run,        nullptr,          flops};

}  // namespace mrt
