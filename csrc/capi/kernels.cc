// mrt_kernel_*: packing and single calls, for the compiler and the tests.
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/cpu.h"
#include "base/thread_pool.h"
#include "capi/boundary.h"
#include "kernels/kernel.h"
#include "kernels/machine/machine.h"
#include "runtime/attrs.h"
#include "runtime/shapes.h"
#include "runtime/strided.h"

using mrt::fail;
using mrt::Status;

namespace {

using mrt::Isa;
using mrt::Operator;

Status find(const char* contract, const Operator** out) {
  if (!contract) return mrt::null_argument("mrt_kernel", "contract");
  *out = mrt::find_operator(contract);
  return *out ? Status() : fail(MRT_ERROR_INVALID_ARGUMENT, "there is no kernel contract '%s'", contract);
}

Status check_attrs(const mrt_attr* attrs, size_t count) {
  if (!attrs && count > 0) return fail(MRT_ERROR_INVALID_ARGUMENT, "attrs is NULL but their count is %zu", count);
  for (size_t i = 0; i < count; ++i)
    if (!attrs[i].key) return fail(MRT_ERROR_INVALID_ARGUMENT, "attribute %zu has no key", i);
  return Status();
}

Status to_tensor(const mrt_tensor& t, const char* what, mrt::Tensor* out) {
  if (t.ndim < 0 || t.ndim > MRT_MAX_RANK || (t.ndim > 0 && !t.shape))
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s has %d dimensions, expected 0 to %d and their extents", what, t.ndim,
                MRT_MAX_RANK);
  if (!mrt::is_contiguous(t.shape, t.strides, t.ndim))
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s is strided; kernels take contiguous tensors", what);
  *out = {t.data, t.shape, t.ndim, {t.dtype.code, t.dtype.bits}, 0};
  if (!mrt::tensor_bytes(out->dtype, t.shape, static_cast<size_t>(t.ndim), &out->bytes))
    return fail(MRT_ERROR_SHAPE, "%s has a negative extent or is too large", what);
  if (t.bytes != 0) out->bytes = t.bytes;
  if (!t.data && out->bytes > 0) return fail(MRT_ERROR_INVALID_ARGUMENT, "%s has no data", what);
  return Status();
}

// What packing begins with.
Status packing_of(const char* contract, const char* packing, const mrt_tensor* weight, const mrt_attr* attrs,
                  size_t attr_count, const Operator** op, mrt::Tensor* tensor) {
  MRT_TRY(find(contract, op));
  if (!packing || !weight) return fail(MRT_ERROR_INVALID_ARGUMENT, "packing '%s': packing or weight is NULL", contract);
  MRT_TRY(check_attrs(attrs, attr_count));
  if (mrt::word_of((*op)->contract->packings, packing) < 0)
    return fail(MRT_ERROR_INVALID_ARGUMENT, "contract '%s' has no packing '%s'", contract, packing);
  MRT_TRY(check_keys(mrt::ArrayAttrs((*op)->contract, attrs, attr_count)));
  MRT_TRY(to_tensor(*weight, "the weight", tensor));
  return check_weight(*(*op)->contract, *tensor);
}

Status choose_isa(const Operator& op, const char* isa, Isa* out) {
  *out = mrt::bound_isa();
  if (!isa || !*isa) return mrt::isa_status();
  if (std::strcmp(isa, mrt::isa_name(Isa::reference)) == 0) {
    *out = Isa::reference;
    return Status();
  }
  for (const Isa candidate : mrt::kIsas) {
    if (std::strcmp(isa, mrt::isa_name(candidate)) != 0) continue;
    *out = candidate;
    bool built = candidate == Isa::scalar;
    for (const mrt::Kernel* k = op.kernels; k->name; ++k) built = built || k->isa == candidate;
    if (built && mrt::allows(mrt::cpu_features(), candidate)) return Status();
    return fail(MRT_ERROR_TARGET, "contract '%s' has no kernel for '%s' on this CPU or in this build",
                op.contract->name, isa);
  }
  return fail(MRT_ERROR_TARGET, "isa is '%s', expected 'reference' or one of %s", isa,
              mrt::isa_names(mrt::kEveryIsa).c_str());
}

Status run_kernel(const char* contract, const char* isa, const mrt_tensor* inputs, size_t input_count,
                  mrt_tensor* outputs, size_t output_count, const mrt_attr* attrs, size_t attr_count, int32_t threads) {
  const Operator* op = nullptr;
  MRT_TRY(find(contract, &op));
  MRT_TRY(check_attrs(attrs, attr_count));
  if ((!inputs && input_count > 0) || (!outputs && output_count > 0) || input_count > 1024 || output_count > 1024)
    return fail(MRT_ERROR_INVALID_ARGUMENT, "mrt_kernel_run: inputs or outputs are NULL or too many");
  Isa chosen = Isa::scalar;
  MRT_TRY(choose_isa(*op, isa, &chosen));
  std::vector<uint64_t> params(op->params_bytes / 8 + 1);
  const mrt::ArrayAttrs list(op->contract, attrs, attr_count);
  MRT_TRY(check_keys(list));
  MRT_TRY(op->prepare(list, chosen, params.data()));
  std::vector<mrt::Tensor> in(input_count), out(output_count);
  for (size_t i = 0; i < input_count; ++i) {
    if (!inputs[i].data && inputs[i].ndim < 0) {
      in[i].ndim = -1;
      continue;
    }
    MRT_TRY(to_tensor(inputs[i], ("input " + std::to_string(i)).c_str(), &in[i]));
  }
  for (size_t i = 0; i < output_count; ++i)
    MRT_TRY(to_tensor(outputs[i], ("output " + std::to_string(i)).c_str(), &out[i]));
  const int n_in = static_cast<int>(input_count), n_out = static_cast<int>(output_count);
  threads = threads < 1 ? 1 : threads;
  MRT_TRY(check_call(*op, params.data(), in.data(), n_in, out.data(), n_out));
  if (op->check_weight) MRT_TRY(op->check_weight(params.data(), in[static_cast<size_t>(packed_input(*op->contract))]));
  mrt::Arena scratch;
  const size_t bytes = scratch_bytes(*op, params.data(), in.data(), n_in, out.data(), n_out, threads);
  if (!scratch.reserve(bytes)) return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for %zu bytes of scratch", bytes);
  mrt::KernelContext context{threads > 1 ? mrt::ThreadPool::process() : nullptr, threads, scratch.data(), nullptr};
  const int32_t rc = op->run(params.data(), in.data(), n_in, out.data(), n_out, context);
  if (rc == MRT_OK) return Status();
  return fail(rc == MRT_ERROR_RUN ? MRT_ERROR_RUN : MRT_ERROR_INTERNAL, "%s: %s", op->contract->name,
              context.error ? context.error : "the kernel failed without saying why");
}

// What the packed form takes.
Status packed_bytes(const Operator& op, const mrt::Tensor& weight, const mrt::ArrayAttrs& attrs, size_t* out) {
  int64_t bytes = -1;
  MRT_TRY(op.pack(weight, attrs, &bytes, nullptr));
  if (bytes < 0) return fail(MRT_ERROR_SHAPE, "%s: the packed weight is too large to address", op.contract->name);
  *out = static_cast<size_t>(bytes);
  return Status();
}

}  // namespace

extern "C" {

mrt_status mrt_kernel_packed_bytes(const char* contract, const char* packing, const mrt_tensor* weight,
                                   const mrt_attr* attrs, size_t attr_count, size_t* out) {
  return mrt::guard([&]() -> Status {
    if (!out) return mrt::null_argument("mrt_kernel_packed_bytes", "out");
    const Operator* op = nullptr;
    mrt::Tensor tensor;
    MRT_TRY(packing_of(contract, packing, weight, attrs, attr_count, &op, &tensor));
    return packed_bytes(*op, tensor, mrt::ArrayAttrs(op->contract, attrs, attr_count), out);
  });
}

mrt_status mrt_kernel_pack(const char* contract, const char* packing, const mrt_tensor* weight, const mrt_attr* attrs,
                           size_t attr_count, void* out, size_t out_bytes) {
  return mrt::guard([&]() -> Status {
    if (!out) return mrt::null_argument("mrt_kernel_pack", "out");
    const Operator* op = nullptr;
    mrt::Tensor tensor;
    MRT_TRY(packing_of(contract, packing, weight, attrs, attr_count, &op, &tensor));
    const mrt::ArrayAttrs list(op->contract, attrs, attr_count);
    size_t needed = 0;
    MRT_TRY(packed_bytes(*op, tensor, list, &needed));
    if (out_bytes < needed)
      return fail(MRT_ERROR_CAPACITY, "the packed weight takes %zu bytes, the buffer has %zu", needed, out_bytes);
    int64_t bytes = 0;
    return op->pack(tensor, list, &bytes, out);
  });
}

mrt_status mrt_kernel_run(const char* contract, const char* isa, const mrt_tensor* inputs, size_t input_count,
                          mrt_tensor* outputs, size_t output_count, const mrt_attr* attrs, size_t attr_count,
                          int32_t threads) {
  return mrt::guard([&]() -> Status {
    return run_kernel(contract, isa, inputs, input_count, outputs, output_count, attrs, attr_count, threads);
  });
}

mrt_status mrt_machine_rates(int32_t threads, double* gflops, double* gbps) {
  return mrt::guard([&]() -> Status {
    if (!gflops || !gbps) return mrt::null_argument("mrt_machine_rates", gflops ? "gbps" : "gflops");
    if (threads < 1 || threads > mrt_cpu_count())
      return fail(MRT_ERROR_INVALID_ARGUMENT, "mrt_machine_rates: %d threads, expected 1 to the %d of this process",
                  threads, mrt_cpu_count());
    mrt::MachineRates rates{};
    MRT_TRY(mrt::machine_rates(threads, &rates));
    *gflops = rates.gflops;
    *gbps = rates.gbps;
    return Status();
  });
}

}  // extern "C"
