// pool2d_f32: maximum or average over windows of an NHWC image.
//
// x [N, H, W, C] -> y [N, OH, OW, C]. Taps in the padding do not count; with count_include_pad the divisor of an
// average counts those of them that lie in the padded image (a window that ceil mode hangs over the edge counts no
// further). Attributes mode max/avg, kernel (kh, kw), strides [1, 1], pads (top, left, bottom, right) [0, 0, 0, 0],
// dilations [1, 1], count_include_pad [0]. A window without any tap gives -inf or, as 0 / 0, NaN.
#include <cinttypes>

#include "kernels/pool/pool_kernels.h"

namespace mrt {
namespace {

constexpr const char* kContract = "pool2d_f32";
constexpr int64_t kLimit = 1 << 20;  // of every attribute: products of a few stay far from overflow

struct Params {
  const PoolKernel* table;
  int64_t kernel[2], strides[2], pads[4], dilations[2], count_include_pad;
  int32_t average;
};

const PoolKernel* const kTables[] = {
#define MRT_KERNEL(isa) &kPoolF32_##isa,
#include "kernels/pool/kernels.inc"
#undef MRT_KERNEL
    nullptr};
const char* const kNames[] = {
#define MRT_KERNEL(isa) "pool2d_f32_" #isa,
#include "kernels/pool/kernels.inc"
#undef MRT_KERNEL
    nullptr};

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  Params* p = static_cast<Params*>(params);
  p->table = pool_kernel(isa);
  p->kernel[0] = p->kernel[1] = 0;
  for (int i = 0; i < 2; ++i) p->strides[i] = p->dilations[i] = 1;
  static const char* const kModes[] = {"max", "avg", nullptr};
  p->average = -1;
  MRT_TRY(attr_choice(attrs, kContract, "mode", kModes, &p->average));
  if (p->average < 0)
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute 'mode' is missing, expected 'max' or 'avg'", kContract);
  MRT_TRY(attr_ints(attrs, kContract, "kernel", 2, 1, kLimit, p->kernel));
  if (p->kernel[0] == 0)
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: attribute 'kernel' is missing, expected two integers", kContract);
  MRT_TRY(attr_ints(attrs, kContract, "strides", 2, 1, kLimit, p->strides));
  MRT_TRY(attr_ints(attrs, kContract, "pads", 4, 0, kLimit, p->pads));
  MRT_TRY(attr_ints(attrs, kContract, "dilations", 2, 1, kLimit, p->dilations));
  return attr_int(attrs, kContract, "count_include_pad", 0, 1, &p->count_include_pad);
}

// Output extents are those of floor or of ceil mode.
Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params* p = static_cast<const Params*>(params);
  MRT_TRY(check_f32(kContract, "x", in[0], 4));
  MRT_TRY(check_f32(kContract, "y", out[0], 4));
  MRT_TRY(check_extent(kContract, "y", out[0], 0, in[0].shape[0]));
  MRT_TRY(check_extent(kContract, "y", out[0], 3, in[0].shape[3]));
  for (int i = 0; i < 2; ++i) {
    const int64_t extent = in[0].shape[1 + i], y = out[0].shape[1 + i];
    if (extent >= INT64_MAX / 4) return fail(MRT_ERROR_SHAPE, "%s: x is too large", kContract);
    const int64_t rest = extent + p->pads[i] + p->pads[2 + i] - p->dilations[i] * (p->kernel[i] - 1) - 1;
    const int64_t floor = rest < 0 ? 0 : rest / p->strides[i] + 1;
    const int64_t ceil = rest < 0 ? 1 : (rest + p->strides[i] - 1) / p->strides[i] + 1;
    if (y != floor && y != ceil) {
      return fail(MRT_ERROR_SHAPE, "%s: y has extent %" PRId64 " in dimension %d, expected %" PRId64 " or %" PRId64,
                  kContract, y, 1 + i, floor, ceil);
    }
  }
  return Status();
}

size_t scratch(const void*, const Tensor*, int, const Tensor*, int, int32_t) { return 0; }

// The taps of one output position along one axis: the first inside the image, how many inside, how many that the
// divisor of an average counts.
struct Taps {
  int64_t first, count, divisor;
};

Taps taps_at(int64_t position, int64_t extent, int64_t kernel, int64_t stride, int64_t pad, int64_t pad_end,
             int64_t dilation, bool include_pad) {
  const int64_t start = position * stride - pad;
  const auto below = [&](int64_t bound) {  // taps k with start + k * dilation < bound
    const int64_t n = bound <= start ? 0 : (bound - start + dilation - 1) / dilation;
    return n < kernel ? n : kernel;
  };
  const int64_t skipped = below(0), inside = below(extent) - skipped;
  return {start + skipped * dilation, inside, include_pad ? below(extent + pad_end) : inside};
}

int32_t run(const void* params, const Tensor* in, int, const Tensor* out, int, KernelContext& ctx) {
  const Params* p = static_cast<const Params*>(params);
  if (has_no_elements(out[0])) return MRT_OK;
  const int64_t h = in[0].shape[1], w = in[0].shape[2], c = in[0].shape[3];
  const int64_t oh = out[0].shape[1], ow = out[0].shape[2];
  const auto max = p->table == nullptr ? pool_max_reference : p->table->max;
  const auto sum = p->table == nullptr ? pool_sum_reference : p->table->sum;
  const float* x = in[0].as<float>();
  float* y = out[0].as<float>();
  const int64_t work = ow * c * (p->kernel[0] < h ? p->kernel[0] : h) * (p->kernel[1] < w ? p->kernel[1] : w);
  parallel_ranges(ctx, out[0].shape[0] * oh, work > 0 ? 65536 / work : 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / oh;
      const Taps v = taps_at(row % oh, h, p->kernel[0], p->strides[0], p->pads[0], p->pads[2], p->dilations[0],
                             p->count_include_pad != 0);
      for (int64_t j = 0; j < ow; ++j) {
        const Taps u = taps_at(j, w, p->kernel[1], p->strides[1], p->pads[1], p->pads[3], p->dilations[1],
                               p->count_include_pad != 0);
        PoolWindow window{x, p->dilations[0] * w * c, p->dilations[1] * c, v.count, u.count, c, y + (row * ow + j) * c};
        if (v.count > 0 && u.count > 0) window.x += ((n * h + v.first) * w + u.first) * c;
        if (p->average != 0) {
          sum(window, static_cast<float>(v.divisor * u.divisor));
        } else {
          max(window);
        }
      }
    }
  });
  return MRT_OK;
}

const char* kernel_name(const void* params, const Tensor*, int, const Tensor*, int) {
  const PoolKernel* table = static_cast<const Params*>(params)->table;
  return table == nullptr ? "pool2d_f32_reference" : table->pool_name;
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const Params* p = static_cast<const Params*>(params);
  return element_count(out[0]) * static_cast<double>(p->kernel[0] * p->kernel[1]);
}

}  // namespace

const PoolKernel* pool_kernel(Isa isa) { return kernel_of(kTables, isa); }

extern const Operator kPool2dF32Operator;
const Operator kPool2dF32Operator = {
    kContract, nullptr, kNames,  sizeof(Params), prepare, check,        scratch,
    run,       nullptr, nullptr, kernel_name,    flops,   {1, 1, 1, 1}, batched_inputs<0b1>};

}  // namespace mrt
