// lookup: y = table[x], element by element; x of 8 bits, its bytes taken as numbers from 0 to 255. Any function of a
// quantized tensor whose result is quantized is one.
#include "kernels/lookup/lookup_kernels.h"

namespace mrt {
namespace {

constexpr const char* kName = "lookup";

constexpr Operand kInputs[] = {{"x", kU8 | kS8, kAnyRank, kBatched}, {"table", kU8 | kS8, 1}};
constexpr Operand kOutputs[] = {{"y", kLikeSecond, kAnyRank}};
constexpr Contract kContract = {kName, "", kInputs, kOutputs};
constexpr int64_t kEntries = 256;
constexpr int64_t kGrain = 64 * 1024;  // bytes of one piece of parallel work

struct Params {
  const LookupKernel* kernel;
};

Status prepare(const Attrs&, Isa isa, void* params) {
  static_cast<Params*>(params)->kernel = kLookup[isa];
  return Status();
}

Status check(const void*, const Tensor* in, int, const Tensor* out, int) {
  MRT_TRY(check_extent(kName, "table", in[1], 0, kEntries));
  return check_same_shape(kName, "y", out[0], in[0]);
}

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

}  // namespace

const Operator kOperator_lookup = {&kContract, kLookup.rows, sizeof(Params), prepare, check, run};

}  // namespace mrt
