// dynamic_quantize_u8: x float32 -> y uint8 like x, scale float32 [], zero uint8 []: ONNX's DynamicQuantizeLinear. One
// pass over x finds its range, a second one quantizes.
#include "kernels/dynamic_quantize/dynamic_quantize_kernels.h"

namespace mrt {
namespace {

constexpr const char* kName = "dynamic_quantize_u8";

constexpr Operand kInputs[] = {{"x", kF32, kAnyRank}};
constexpr Operand kOutputs[] = {{"y", kU8, kAnyRank}, {"scale", kF32, 0}, {"zero", kU8, 0}};
constexpr Contract kContract = {kName, "", kInputs, kOutputs};
constexpr int64_t kGrain = 32 * 1024;  // numbers of one piece of parallel work

struct Params {
  const DynamicQuantizeKernel* kernel;  // null: the reference
};

Status prepare(const Attrs&, Isa isa, void* params) {
  static_cast<Params*>(params)->kernel = kDynamicQuantize[isa];
  return Status();
}

Status check(const void*, const Tensor* in, int, const Tensor* out, int) {
  return check_same_shape(kName, "y", out[0], in[0]);
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

double flops(const void*, const Tensor* in, int, const Tensor*, int) { return element_count(in[0]); }

}  // namespace

const Operator kOperator_dynamic_quantize_u8 = {
    &kContract, kDynamicQuantize.rows, sizeof(Params), prepare, check, run, scratch, flops};

}  // namespace mrt
