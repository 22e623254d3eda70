// Norms over the last dimension of s = x + residual. layer_norm_f32: (s - mean) / sqrt(variance + epsilon) * gamma +
// beta; rms_norm_f32: s / sqrt(mean of squares + epsilon) * gamma. Outputs y and, where asked for, s.
#include "kernels/norm/norm_kernels.h"

namespace mrt {
namespace {

constexpr Operand kLayerInputs[] = {{"x", kF32, kAnyRank, kBatched},
                                    {"gamma", kF32, 1, kOptional},
                                    {"beta", kF32, 1, kOptional},
                                    {"residual", kF32, kAnyRank, kOptional | kResidual | kBatched}};
constexpr Operand kRmsInputs[] = {{"x", kF32, kAnyRank, kBatched},
                                  {"gamma", kF32, 1, kOptional},
                                  {"residual", kF32, kAnyRank, kOptional | kResidual | kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, kAnyRank}, {"sum", kF32, kAnyRank, kOptional}};
constexpr Attribute kAttributes[] = {number("epsilon", 1e-5, 0)};
constexpr Contract kLayer = {"layer_norm_f32", "", kLayerInputs, kOutputs, kAttributes};
constexpr Contract kRms = {"rms_norm_f32", "", kRmsInputs, kOutputs, kAttributes};

struct Params {
  const NormKernel* kernel;
  const Contract* contract;
  int gamma, beta, residual;  // where these inputs stand; -1: there is none
  double epsilon;
  bool layer() const { return beta >= 0; }
};

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  Params* p = static_cast<Params*>(params);
  p->kernel = kNormF32[isa];
  p->contract = &attrs.contract();
  p->gamma = p->contract->input_of("gamma");
  p->beta = p->contract->input_of("beta");
  p->residual = p->contract->input_of("residual");
  return attr_float(attrs, "epsilon", &p->epsilon);
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out) {
  const Contract& c = *static_cast<const Params*>(params)->contract;
  if (in[0].ndim == 0) return fail(MRT_ERROR_SHAPE, "%s: x has no dimensions, expected at least 1", c.name);
  const int64_t d = in[0].shape[in[0].ndim - 1];
  for (int i = 1; i < n_in && c.inputs[i].rank == 1; ++i)
    if (present(in, n_in, i)) MRT_TRY(check_extent(c.name, c.inputs[i].name, in[i], 0, d));
  for (int i = 0; i < n_out; ++i) MRT_TRY(check_same_shape(c.name, c.outputs[i].name, out[i], in[0]));
  return Status();
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out, KernelContext& ctx) {
  if (has_no_elements(in[0])) return MRT_OK;
  const Params& p = *static_cast<const Params*>(params);
  auto row = p.layer() ? layer_norm_reference : rms_norm_reference;
  if (p.kernel != nullptr) row = p.layer() ? p.kernel->layer : p.kernel->rms;
  const auto data = [&](int index) { return index >= 0 && present(in, n_in, index) ? in[index].as<float>() : nullptr; };
  NormRow all{};
  all.x = data(0);
  all.gamma = data(p.gamma);
  all.beta = data(p.beta);
  all.residual = data(p.residual);
  all.y = out[0].as<float>();
  all.sum = present(out, n_out, 1) ? out[1].as<float>() : nullptr;
  all.d = in[0].shape[in[0].ndim - 1];
  all.epsilon = static_cast<float>(p.epsilon);
  const int64_t rows = in[0].extent(0, in[0].ndim - 1);
  parallel_ranges(ctx, rows, 16384 / all.d, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      NormRow r = all;
      r.x += i * all.d;
      r.y += i * all.d;
      if (r.residual != nullptr) r.residual += i * all.d;
      if (r.sum != nullptr) r.sum += i * all.d;
      row(r);
    }
  });
  return MRT_OK;
}

double flops(const void* params, const Tensor* in, int, const Tensor*, int) {
  return (static_cast<const Params*>(params)->layer() ? 8.0 : 4.0) * element_count(in[0]);
}

}  // namespace

const Operator kOperator_layer_norm_f32 = {&kLayer, kNormF32.rows, sizeof(Params), prepare, check, run, nullptr, flops};
const Operator kOperator_rms_norm_f32 = {&kRms, kNormF32.rows, sizeof(Params), prepare, check, run, nullptr, flops};

}  // namespace mrt
