// global_avg_pool_f32: the mean over an image's positions, x [N, H, W, C] -> y [N, C]. Of no position: NaN, as 0 / 0.
#include "kernels/pool/pool_kernels.h"

namespace mrt {
namespace {

constexpr const char* kContract = "global_avg_pool_f32";
constexpr int64_t kChannels = 64;  // of one piece of work: four cache lines of every position

struct Params {
  const PoolKernel* table;
};

const char* const kNames[] = {
#define MRT_KERNEL(isa) "global_avg_pool_f32_" #isa,
#include "kernels/pool/kernels.inc"
#undef MRT_KERNEL
    nullptr};

Status prepare(const Attrs&, Isa isa, void* params) {
  static_cast<Params*>(params)->table = pool_kernel(isa);
  return Status();
}

Status check(const void*, const Tensor* in, int, const Tensor* out, int) {
  MRT_TRY(check_f32(kContract, "x", in[0], 4));
  MRT_TRY(check_f32(kContract, "y", out[0], 2));
  MRT_TRY(check_extent(kContract, "y", out[0], 0, in[0].shape[0]));
  return check_extent(kContract, "y", out[0], 1, in[0].shape[3]);
}

size_t scratch(const void*, const Tensor*, int, const Tensor*, int, int32_t) { return 0; }

int32_t run(const void* params, const Tensor* in, int, const Tensor* out, int, KernelContext& ctx) {
  const Params* p = static_cast<const Params*>(params);
  if (has_no_elements(out[0])) return MRT_OK;
  const auto sum = p->table == nullptr ? pool_sum_reference : p->table->sum;
  const int64_t c = in[0].shape[3];
  const bool empty = in[0].shape[1] == 0 || in[0].shape[2] == 0;
  const int64_t h = empty ? 0 : in[0].shape[1], w = empty ? 0 : in[0].shape[2], size = h * w;
  const float* x = in[0].as<float>();
  float* y = out[0].as<float>();
  const int64_t blocks = (c + kChannels - 1) / kChannels;
  parallel_ranges(
      ctx, in[0].shape[0] * blocks, empty ? 1024 : 65536 / (size * kChannels), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t n = i / blocks, first = i % blocks * kChannels;
          const int64_t channels = c - first < kChannels ? c - first : kChannels;
          sum({x + n * size * c + first, w * c, c, h, w, channels, y + n * c + first}, static_cast<float>(size));
        }
      });
  return MRT_OK;
}

const char* kernel_name(const void* params, const Tensor*, int, const Tensor*, int) {
  const PoolKernel* table = static_cast<const Params*>(params)->table;
  return table == nullptr ? "global_avg_pool_f32_reference" : table->global_name;
}

double flops(const void*, const Tensor* in, int, const Tensor*, int) { return element_count(in[0]); }

}  // namespace

extern const Operator kGlobalAvgPoolF32Operator;
const Operator kGlobalAvgPoolF32Operator = {
    kContract, nullptr, kNames,  sizeof(Params), prepare, check,        scratch,
    run,       nullptr, nullptr, kernel_name,    flops,   {1, 1, 1, 1}, batched_inputs<0b1>};

}  // namespace mrt
