// resize2d_f32: an NHWC image at another size, as ONNX's Resize and torch's interpolate do it without antialiasing.
//
// Outside of the image its edge is repeated.
// Columns and weights of an axis are computed once a run; a row of y is a weighted sum of rows of x, and then of
// columns.
#include <cinttypes>

#include "kernels/resize/resize_kernels.h"

namespace mrt {
namespace {

constexpr const char* kName = "resize2d_f32";

constexpr Operand kInputs[] = {{"x", kF32, 4, kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, 4}};
constexpr Attribute kAttributes[] = {
    choice("mode", "nearest linear cubic"),
    choice("coordinates", "half_pixel align_corners asymmetric pytorch_half_pixel"),
    choice("nearest_rounding", "floor ceil round_prefer_floor round_prefer_ceil"),
    number("cubic_a", -0.75),
    numbers("scales", 2, 1e-12, 1e12).with(kDerived),  // y's extent over x's
};
constexpr Contract kContract = {kName, "", kInputs, kOutputs, kAttributes};
constexpr int64_t kLimit = int64_t{1} << 30;  // of an extent: columns are kept as int32

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  ResizeParams* p = static_cast<ResizeParams*>(params);
  p->kernel = kResizeF32[isa];
  MRT_TRY(attr_choice(attrs, "mode", &p->mode));
  MRT_TRY(attr_choice(attrs, "coordinates", &p->coordinates));
  MRT_TRY(attr_choice(attrs, "nearest_rounding", &p->rounding));
  MRT_TRY(attr_float(attrs, "cubic_a", &p->cubic_a));
  int32_t n;
  return attr_numbers(attrs, "scales", p->scales, &n);
}

Status check(const void*, const Tensor* in, int, const Tensor* out, int) {
  MRT_TRY(check_extent(kName, "y", out[0], 0, in[0].shape[0]));
  MRT_TRY(check_extent(kName, "y", out[0], 3, in[0].shape[3]));
  for (int d = 1; d < 3; ++d) {
    if (in[0].shape[d] > kLimit || out[0].shape[d] > kLimit) {
      return fail(MRT_ERROR_SHAPE, "%s: dimension %d is too large, expected at most %" PRId64, kName, d, kLimit);
    }
  }
  if (has_no_elements(in[0]) && !has_no_elements(out[0])) {
    return fail(MRT_ERROR_SHAPE, "%s: x has no elements to make y of", kName);
  }
  return Status();
}

// Tables of both axes, then a row of x for each worker.
struct Buffers {
  int32_t *row_index, *col_index;
  float *row_weight, *col_weight;
  char* rows;
  size_t row_bytes, bytes;
};

Buffers buffers_of(const ResizeParams& p, const Tensor& x, const Tensor& y, int32_t threads, char* base) {
  Buffers b;
  size_t at = 0;
  const auto take = [&](int64_t count) {
    char* r = base == nullptr ? nullptr : base + at;
    at += align64(static_cast<size_t>(count) * 4);
    return r;
  };
  const int64_t taps = p.taps();
  b.row_index = reinterpret_cast<int32_t*>(take(y.shape[1] * taps));
  b.col_index = reinterpret_cast<int32_t*>(take(y.shape[2] * taps));
  b.row_weight = reinterpret_cast<float*>(take(y.shape[1] * taps));
  b.col_weight = reinterpret_cast<float*>(take(y.shape[2] * taps));
  b.rows = base == nullptr ? nullptr : base + at;
  b.row_bytes = p.mode == 0 ? 0 : align64(static_cast<size_t>(x.shape[2] * x.shape[3]) * 4);
  b.bytes = at + b.row_bytes * static_cast<size_t>(threads);
  return b;
}

size_t scratch(const void* params, const Tensor* in, int, const Tensor* out, int, int32_t threads) {
  const ResizeParams& p = *static_cast<const ResizeParams*>(params);
  if (p.kernel == nullptr || has_no_elements(out[0])) return 0;
  return buffers_of(p, in[0], out[0], threads, nullptr).bytes;
}

void fill_axis(const ResizeParams& p, int64_t in, int64_t out, double scale, int32_t* index, float* weight) {
  double w[4];
  for (int64_t i = 0; i < out; ++i) {
    resize_taps(p, i, in, out, scale, index + i * p.taps(), w);
    for (int t = 0; t < p.taps(); ++t) weight[i * p.taps() + t] = static_cast<float>(w[t]);
  }
}

int32_t run(const void* params, const Tensor* in, int, const Tensor* out, int, KernelContext& ctx) {
  const ResizeParams& p = *static_cast<const ResizeParams*>(params);
  const Tensor &x = in[0], &y = out[0];
  if (has_no_elements(y)) return MRT_OK;
  if (p.kernel == nullptr) {
    resize_reference(p, x, y);
    return MRT_OK;
  }
  const Buffers b = buffers_of(p, x, y, ctx.threads, static_cast<char*>(ctx.scratch));
  const int64_t h = x.shape[1], w = x.shape[2], c = x.shape[3], oh = y.shape[1], ow = y.shape[2];
  const int taps = p.taps();
  fill_axis(p, h, oh, p.scales[0], b.row_index, b.row_weight);
  fill_axis(p, w, ow, p.scales[1], b.col_index, b.col_weight);
  const int64_t work = (w + ow) * c * taps;
  const auto one = [&](int64_t worker, int64_t i) {
    const float* image = x.as<float>() + i / oh * h * w * c;
    float* to = y.as<float>() + i * ow * c;
    const int32_t* index = b.row_index + i % oh * taps;
    const float* from[4];
    for (int t = 0; t < taps; ++t) from[t] = image + index[t] * w * c;
    if (p.mode != 0) {
      float* row = reinterpret_cast<float*>(b.rows + static_cast<size_t>(worker) * b.row_bytes);
      p.kernel->blend(from, b.row_weight + i % oh * taps, taps, row, w * c);
      from[0] = row;
    }
    p.kernel->row(from[0], b.col_index, b.col_weight, taps, to, ow, c);
  };
  const int64_t rows = y.shape[0] * oh, workers = rows * work < 65536 ? 1 : ctx.threads;
  parallel_items(ctx, rows, workers, one);
  return MRT_OK;
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const double taps = static_cast<const ResizeParams*>(params)->taps();
  return 2 * taps * taps * element_count(out[0]);
}

}  // namespace

const Operator kOperator_resize2d_f32 = {
    &kContract, kResizeF32.rows, sizeof(ResizeParams), prepare, check, run, scratch, flops};

}  // namespace mrt
