// global_avg_pool_f32: the mean over an image's positions, x [N, H, W, C] -> y [N, C]. Of no position: NaN, as 0 / 0.
#include "kernels/pool/pool_kernels.h"

namespace mrt {
namespace {

constexpr const char* kName = "global_avg_pool_f32";

constexpr Operand kInputs[] = {{"x", kF32, 4, kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, 2}};
constexpr Contract kContract = {kName, "", kInputs, kOutputs};
constexpr int64_t kChannels = 64;  // of one piece of work: four cache lines of every position

struct Params {
  const PoolKernel* table;
};

Status prepare(const Attrs&, Isa isa, void* params) {
  static_cast<Params*>(params)->table = kPoolF32[isa];
  return Status();
}

Status check(const void*, const Tensor* in, int, const Tensor* out, int) {
  MRT_TRY(check_extent(kName, "y", out[0], 0, in[0].shape[0]));
  return check_extent(kName, "y", out[0], 1, in[0].shape[3]);
}

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

double flops(const void*, const Tensor* in, int, const Tensor*, int) { return element_count(in[0]); }

}  // namespace

const Operator kOperator_global_avg_pool_f32 = {&kContract, kPoolF32.rows, sizeof(Params), prepare,
                                                check,      run,           nullptr,        flops};

}  // namespace mrt
