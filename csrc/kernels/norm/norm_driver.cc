// What layer_norm_f32 and rms_norm_f32 share; see norm_driver.h.
#include "kernels/norm/norm_driver.h"

namespace mrt {
namespace {

const NormKernel* const kTables[] = {
#define MRT_KERNEL(isa) &kNormF32_##isa,
#include "kernels/norm/kernels.inc"
#undef MRT_KERNEL
    nullptr};

Status check_vector(const char* contract, const char* name, const Tensor* in, int n_in, int index, int64_t d) {
  if (index < 0 || !present(in, n_in, index)) return Status();
  MRT_TRY(check_f32(contract, name, in[index], 1));
  return check_extent(contract, name, in[index], 0, d);
}

}  // namespace

Status norm_prepare(const char* contract, const Attrs& attrs, Isa isa, void* params) {
  NormParams* p = static_cast<NormParams*>(params);
  p->kernel = kernel_of(kTables, isa);
  p->epsilon = 1e-5;
  MRT_TRY(attr_float(attrs, contract, "epsilon", &p->epsilon));
  if (p->epsilon < 0)
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: epsilon is %g, expected 0 or more", contract, p->epsilon);
  return Status();
}

Status norm_check(const NormInputs& inputs, const Tensor* in, int n_in, const Tensor* out, int n_out) {
  const char* contract = inputs.contract;
  MRT_TRY(check_f32(contract, "x", in[0], -1));
  if (in[0].ndim == 0) return fail(MRT_ERROR_SHAPE, "%s: x has no dimensions, expected at least 1", contract);
  const int64_t d = in[0].shape[in[0].ndim - 1];
  MRT_TRY(check_vector(contract, "gamma", in, n_in, inputs.gamma, d));
  MRT_TRY(check_vector(contract, "beta", in, n_in, inputs.beta, d));
  if (present(in, n_in, inputs.residual)) {
    MRT_TRY(check_f32(contract, "residual", in[inputs.residual], -1));
    MRT_TRY(check_same_shape(contract, "residual", in[inputs.residual], in[0]));
  }
  MRT_TRY(check_f32(contract, "y", out[0], -1));
  MRT_TRY(check_same_shape(contract, "y", out[0], in[0]));
  if (present(out, n_out, 1)) {
    MRT_TRY(check_f32(contract, "the sum", out[1], -1));
    MRT_TRY(check_same_shape(contract, "the sum", out[1], in[0]));
  }
  return Status();
}

int32_t norm_run(const NormInputs& inputs, void (*row)(const NormRow&), const void* params, const Tensor* in, int n_in,
                 const Tensor* out, int n_out, KernelContext& ctx) {
  if (has_no_elements(in[0])) return MRT_OK;
  const auto data = [&](int index) { return index >= 0 && present(in, n_in, index) ? in[index].as<float>() : nullptr; };
  NormRow all{};
  all.x = data(0);
  all.gamma = data(inputs.gamma);
  all.beta = data(inputs.beta);
  all.residual = data(inputs.residual);
  all.y = out[0].as<float>();
  all.sum = present(out, n_out, 1) ? out[1].as<float>() : nullptr;
  all.d = in[0].shape[in[0].ndim - 1];
  all.epsilon = static_cast<float>(static_cast<const NormParams*>(params)->epsilon);
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

}  // namespace mrt
