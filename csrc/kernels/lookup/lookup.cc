// lookup: y = table[x], element by element; x of 8 bits, its bytes taken as numbers from 0 to 255. Any function of a
// quantized tensor whose result is quantized is one.
#include "kernels/lookup/lookup_kernels.h"

namespace mrt {
namespace {

constexpr const char* kContract = "lookup";
constexpr int64_t kEntries = 256;
constexpr int64_t kGrain = 64 * 1024;  // bytes of one piece of parallel work

struct Params {
  const LookupKernel* kernel;
};

const LookupKernel* const kTables[] = {
#define MRT_KERNEL(isa) &kLookup_##isa,
#include "kernels/lookup/kernels.inc"
#undef MRT_KERNEL
    nullptr};
const char* const kNames[] = {
#define MRT_KERNEL(isa) "lookup_" #isa,
#include "kernels/lookup/kernels.inc"
#undef MRT_KERNEL
    nullptr};

Status prepare(const Attrs&, Isa isa, void* params) {
  static_cast<Params*>(params)->kernel = kernel_of(kTables, isa);
  return Status();
}

Status check_bytes(const char* name, const Tensor& t, int32_t ndim) {
  MRT_TRY(check_tensor(kContract, name, t, ndim));
  if ((t.dtype.code != MRT_UINT && t.dtype.code != MRT_INT) || t.dtype.bits != 8) {
    return fail(MRT_ERROR_DTYPE, "%s: %s has type code %d with %d bits, expected uint8 or int8", kContract, name,
                t.dtype.code, t.dtype.bits);
  }
  return Status();
}

Status check(const void*, const Tensor* in, int, const Tensor* out, int) {
  MRT_TRY(check_bytes("x", in[0], -1));
  MRT_TRY(check_bytes("table", in[1], 1));
  MRT_TRY(check_extent(kContract, "table", in[1], 0, kEntries));
  MRT_TRY(check_bytes("y", out[0], -1));
  return check_same_shape(kContract, "y", out[0], in[0]);
}

size_t scratch(const void*, const Tensor*, int, const Tensor*, int, int32_t) { return 0; }

int32_t run(const void* params, const Tensor* in, int, const Tensor* out, int, KernelContext& ctx) {
  if (has_no_elements(in[0])) return MRT_OK;
  const LookupKernel* kernel = static_cast<const Params*>(params)->kernel;
  const uint8_t *x = in[0].as<const uint8_t>(), *table = in[1].as<const uint8_t>();
  uint8_t* y = out[0].as<uint8_t>();
  parallel_ranges(ctx, in[0].elements(), kGrain, [&](int64_t begin, int64_t end) {
    if (kernel != nullptr) return kernel->run(table, x + begin, end - begin, y + begin);
    for (int64_t i = begin; i < end; ++i) y[i] = table[x[i]];
  });
  return MRT_OK;
}

const char* kernel_name(const void* params, const Tensor*, int, const Tensor*, int) {
  const LookupKernel* kernel = static_cast<const Params*>(params)->kernel;
  return kernel == nullptr ? "lookup_reference" : kernel->name;
}

double flops(const void*, const Tensor*, int, const Tensor*, int) { return 0; }

}  // namespace

extern const Operator kLookupOperator;
const Operator kLookupOperator = {
    kContract, nullptr, kNames,  sizeof(Params), prepare, check,        scratch,
    run,       nullptr, nullptr, kernel_name,    flops,   {2, 2, 1, 1}, batched_inputs<0b1>};

}  // namespace mrt
