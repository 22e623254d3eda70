// pool2d_f32: maximum or average over windows of an NHWC image; max_pool2d_u8: maximum, of bytes.
//
// Taps in the padding do not count; with count_include_pad the divisor of an average counts those of them that lie in
// the padded image (a window that ceil mode hangs over the edge counts no further). Pads are top, left, bottom, right.
// A window without any tap gives -inf or, as 0 / 0, NaN; of bytes 0.
#include <cinttypes>

#include "kernels/pool/pool_kernels.h"

namespace mrt {
namespace {

constexpr int64_t kLimit = 1 << 20;  // of every attribute: products of a few stay far from overflow

constexpr Operand kFloatInputs[] = {{"x", kF32, 4, kBatched}};
constexpr Operand kFloatOutputs[] = {{"y", kF32, 4}};
constexpr Operand kByteInputs[] = {{"x", kU8, 4, kBatched}};
constexpr Operand kByteOutputs[] = {{"y", kU8, 4}};
constexpr Attribute kWindow[] = {integers("kernel", 2, 1, kLimit), integers("strides", 2, 1, kLimit, 1),
                                 integers("pads", 4, 0, kLimit, 0), integers("dilations", 2, 1, kLimit, 1)};
constexpr Attribute kFloatAttributes[] = {choice("mode", "max avg").with(kNeeded),
                                          integer("count_include_pad", 0, 1, 0)};
constexpr Contract kFloats = {"pool2d_f32", "", kFloatInputs, kFloatOutputs, kWindow, kFloatAttributes};
constexpr Contract kBytes = {"max_pool2d_u8", "", kByteInputs, kByteOutputs, kWindow};

struct Params {
  const PoolKernel* table;
  const char* name;
  int64_t kernel[2], strides[2], pads[4], dilations[2], count_include_pad;
  int32_t average;
};

Status prepare_bytes(const Attrs& attrs, Isa isa, void* params) {
  Params* p = static_cast<Params*>(params);
  p->table = kPoolF32[isa];
  p->name = attrs.contract().name;
  MRT_TRY(attr_ints(attrs, "kernel", p->kernel));
  MRT_TRY(attr_ints(attrs, "strides", p->strides));
  MRT_TRY(attr_ints(attrs, "pads", p->pads));
  return attr_ints(attrs, "dilations", p->dilations);
}

Status prepare_floats(const Attrs& attrs, Isa isa, void* params) {
  Params* p = static_cast<Params*>(params);
  MRT_TRY(attr_choice(attrs, "mode", &p->average));
  MRT_TRY(attr_int(attrs, "count_include_pad", &p->count_include_pad));
  return prepare_bytes(attrs, isa, params);
}

// Output extents are those of floor or of ceil mode.
Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params* p = static_cast<const Params*>(params);
  const char* contract = p->name;
  MRT_TRY(check_extent(contract, "y", out[0], 0, in[0].shape[0]));
  MRT_TRY(check_extent(contract, "y", out[0], 3, in[0].shape[3]));
  for (int i = 0; i < 2; ++i) {
    const int64_t extent = in[0].shape[1 + i], y = out[0].shape[1 + i];
    if (extent >= INT64_MAX / 4) return fail(MRT_ERROR_SHAPE, "%s: x is too large", contract);
    const int64_t rest = extent + p->pads[i] + p->pads[2 + i] - p->dilations[i] * (p->kernel[i] - 1) - 1;
    const int64_t floor = rest < 0 ? 0 : rest / p->strides[i] + 1;
    const int64_t ceil = rest < 0 ? 1 : (rest + p->strides[i] - 1) / p->strides[i] + 1;
    if (y != floor && y != ceil) {
      return fail(MRT_ERROR_SHAPE, "%s: y has extent %" PRId64 " in dimension %d, expected %" PRId64 " or %" PRId64,
                  contract, y, 1 + i, floor, ceil);
    }
  }
  return Status();
}

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

// pool(window, divisor) for every output pixel.
template <typename T, typename Pool>
void each_window(const Params& p, const Tensor& in, const Tensor& out, KernelContext& ctx, Pool&& pool) {
  if (has_no_elements(out)) return;
  const int64_t h = in.shape[1], w = in.shape[2], c = in.shape[3], oh = out.shape[1], ow = out.shape[2];
  const T* x = in.as<T>();
  T* y = out.as<T>();
  const int64_t work = ow * c * (p.kernel[0] < h ? p.kernel[0] : h) * (p.kernel[1] < w ? p.kernel[1] : w);
  parallel_ranges(ctx, out.shape[0] * oh, work > 0 ? 65536 / work : 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / oh;
      const Taps v = taps_at(row % oh, h, p.kernel[0], p.strides[0], p.pads[0], p.pads[2], p.dilations[0],
                             p.count_include_pad != 0);
      for (int64_t j = 0; j < ow; ++j) {
        const Taps u =
            taps_at(j, w, p.kernel[1], p.strides[1], p.pads[1], p.pads[3], p.dilations[1], p.count_include_pad != 0);
        PoolWindowOf<T> window{x, p.dilations[0] * w * c, p.dilations[1] * c, v.count, u.count,
                               c, y + (row * ow + j) * c};
        if (v.count > 0 && u.count > 0) window.x += ((n * h + v.first) * w + u.first) * c;
        pool(window, v.divisor * u.divisor);
      }
    }
  });
}

int32_t run_floats(const void* params, const Tensor* in, int, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const auto max = p.table == nullptr ? pool_max_reference<float> : p.table->max;
  const auto sum = p.table == nullptr ? pool_sum_reference : p.table->sum;
  each_window<float>(p, in[0], out[0], ctx, [&](const PoolWindow& window, int64_t divisor) {
    if (p.average != 0) {
      sum(window, static_cast<float>(divisor));
    } else {
      max(window);
    }
  });
  return MRT_OK;
}

int32_t run_bytes(const void* params, const Tensor* in, int, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const auto max = p.table == nullptr ? pool_max_reference<uint8_t> : p.table->max_bytes;
  each_window<uint8_t>(p, in[0], out[0], ctx, [&](const PoolWindowOf<uint8_t>& window, int64_t) { max(window); });
  return MRT_OK;
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const Params* p = static_cast<const Params*>(params);
  return element_count(out[0]) * static_cast<double>(p->kernel[0] * p->kernel[1]);
}

}  // namespace

const Operator kOperator_pool2d_f32 = {&kFloats, kPoolF32.rows, sizeof(Params), prepare_floats,
                                       check,    run_floats,    nullptr,        flops};
const Operator kOperator_max_pool2d_u8 = {&kBytes, kPoolF32.rows, sizeof(Params), prepare_bytes,
                                          check,   run_bytes,     nullptr,        flops};

}  // namespace mrt
