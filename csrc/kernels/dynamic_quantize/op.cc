// dynamic_quantize_u8: x float32 -> y uint8 like x, scale float32 [], zero uint8 []: ONNX's DynamicQuantizeLinear. One
// pass over x finds its range, a second one quantizes.
#include "kernels/dynamic_quantize/dynamic_quantize_kernels.h"

namespace mrt {
namespace {

constexpr const char* kContract = "dynamic_quantize_u8";
constexpr int64_t kGrain = 32 * 1024;  // numbers of one piece of parallel work

struct Params {
  const DynamicQuantizeKernel* kernel;  // null: the reference
};

const DynamicQuantizeKernel* const kTables[] = {
#define MRT_KERNEL(isa) &kDynamicQuantize_##isa,
#include "kernels/dynamic_quantize/kernels.inc"
#undef MRT_KERNEL
    nullptr};
const char* const kNames[] = {
#define MRT_KERNEL(isa) "dynamic_quantize_u8_" #isa,
#include "kernels/dynamic_quantize/kernels.inc"
#undef MRT_KERNEL
    nullptr};

Status prepare(const Attrs&, Isa isa, void* params) {
  static_cast<Params*>(params)->kernel = dynamic_quantize_kernel(isa);
  return Status();
}

Status check(const void*, const Tensor* in, int, const Tensor* out, int) {
  MRT_TRY(check_f32(kContract, "x", in[0], -1));
  MRT_TRY(check_u8(kContract, "y", out[0], -1));
  MRT_TRY(check_same_shape(kContract, "y", out[0], in[0]));
  MRT_TRY(check_f32(kContract, "scale", out[1], 0));
  return check_u8(kContract, "zero", out[2], 0);
}

size_t scratch(const void*, const Tensor*, int, const Tensor*, int, int32_t threads) {
  return align64(sizeof(ValueRange)) * static_cast<size_t>(threads);
}

ValueRange range_of(const Params& p, const float* x, int64_t n, KernelContext& ctx) {
  if (p.kernel == nullptr) return range_reference(x, n);
  const int64_t threads = ctx.pool ? ctx.threads : 1;
  const int64_t wanted = std::max(4 * threads, pieces_to_leave(ctx, static_cast<double>(n)));
  const int64_t pieces = std::min(ceil_div(n, kGrain), wanted);
  const auto own = [&](int64_t worker) {
    return reinterpret_cast<ValueRange*>(static_cast<char*>(ctx.scratch) +
                                         static_cast<size_t>(worker) * align64(sizeof(ValueRange)));
  };
  for (int64_t w = 0; w < threads; ++w) *own(w) = ValueRange{};
  parallel_items(ctx, pieces, threads, [&](int64_t worker, int64_t i) {
    const int64_t begin = n / pieces * i, end = i + 1 == pieces ? n : n / pieces * (i + 1);
    *own(worker) = joined(*own(worker), p.kernel->range(x + begin, end - begin));
  });
  ValueRange all{};
  for (int64_t w = 0; w < threads; ++w) all = joined(all, *own(w));
  return all;
}

int32_t run(const void* params, const Tensor* in, int, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const float* const x = in[0].as<const float>();
  uint8_t* const y = out[0].as<uint8_t>();
  const int64_t n = has_no_elements(in[0]) ? 0 : in[0].elements();
  const ByteScale s = byte_scale(range_of(p, x, n, ctx));
  *out[1].as<float>() = s.scale;
  *out[2].as<uint8_t>() = s.zero;
  const auto quantize = p.kernel ? p.kernel->quantize : quantize_reference;
  parallel_ranges(ctx, n, kGrain, [&](int64_t begin, int64_t end) {
    quantize(x + begin, end - begin, byte_divisor(s), s.zero, y + begin);
  });
  return MRT_OK;
}

const char* kernel_name(const void* params, const Tensor*, int, const Tensor*, int) {
  const DynamicQuantizeKernel* kernel = static_cast<const Params*>(params)->kernel;
  return kernel == nullptr ? "dynamic_quantize_u8_reference" : kernel->name;
}

double flops(const void*, const Tensor* in, int, const Tensor*, int) { return element_count(in[0]); }

}  // namespace

const DynamicQuantizeKernel* dynamic_quantize_kernel(Isa isa) { return kernel_of(kTables, isa); }

extern const Operator kDynamicQuantizeU8Operator;
const Operator kDynamicQuantizeU8Operator = {kContract, nullptr, kNames,  sizeof(Params), prepare, check,       scratch,
                                             run,       nullptr, nullptr, kernel_name,    flops,   {1, 1, 3, 3}};

}  // namespace mrt
