// depthwise_conv2d_f32: one filter a channel over NHWC.
//
// A row of the output is cut into stretches of pixels that see the same columns of the filter: the inner one sees all,
// those at the edges fewer. Positions outside the image are left out, so nothing is padded.
#include <algorithm>

#include "kernels/checks.h"
#include "kernels/conv2d/geometry.h"
#include "kernels/depthwise/row.h"
#include "kernels/epilogue/epilogue.h"
#include "kernels/gemm/pack.h"

namespace mrt {
namespace {

constexpr const char* kContract = "depthwise_conv2d_f32";

struct Params {
  const DepthwiseTable* table;  // null: the reference
  const EpilogueTable* epilogue_table;
  Epilogue epilogue;
  ConvGeometry g;
};

Status decode_depthwise(const Attrs& attrs, ConvGeometry* g) {
  MRT_TRY(decode_conv(attrs, kContract, g));
  // groups may be left out: it can only be the number of channels.
  const int64_t* values = nullptr;
  size_t n = 0;
  if (!attrs.ints("groups", &values, &n)) g->groups = g->in_channels;
  if (g->groups != g->in_channels || g->in_channels != g->out_channels) {
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: groups, input and output channels differ, expected one number",
                kContract);
  }
  return Status();
}

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(decode_depthwise(attrs, &p.g));
  MRT_TRY(decode_epilogue(attrs, kContract, true, &p.epilogue));
  p.table = depthwise_table(isa);
  p.epilogue_table = epilogue_table(isa);
  return Status();
}

int64_t blocks_of(int64_t channels) { return channels / kChannelBlock + (channels % kChannelBlock != 0); }

int64_t packed_size(const ConvGeometry& g) {
  return checked_mul(checked_mul(blocks_of(g.in_channels), g.taps()),
                     kChannelBlock * static_cast<int64_t>(sizeof(float)));
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_conv(kContract, p.g, false, in, n_in, out));
  return check_packed(kContract, in[1], packed_size(p.g));
}

size_t tap_scratch(const ConvGeometry& g) {
  return align64(static_cast<size_t>(g.taps()) * (sizeof(float*) + sizeof(int64_t)));
}

size_t scratch(const void* params, const Tensor*, int, const Tensor*, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  return p.table ? tap_scratch(p.g) * static_cast<size_t>(threads) : 0;
}

// ---- one row of the output ----

struct Image {
  const ConvGeometry* g;
  const DepthwiseTable* table;
  const float* x;
  int64_t h, w, out_w;
};

// The positions of the filter along one axis that lie inside [0, extent) when the first is at `start`.
struct Range {
  int64_t begin, end;
};
Range inside(int64_t start, int64_t extent, int64_t kernel, int64_t dilation) {
  const int64_t begin = start >= 0 ? 0 : (-start + dilation - 1) / dilation;
  const int64_t end = start >= extent ? 0 : (extent - start + dilation - 1) / dilation;
  return {std::min(begin, kernel), std::min(end, kernel)};
}

// The pixels from ow on that see the same columns of the filter as ow does.
int64_t stretch(const Image& m, int64_t ow, const Range& columns) {
  const ConvGeometry& g = *m.g;
  const bool whole = columns.begin == 0 && columns.end == g.kernel_w;
  if (!whole) return 1;
  const int64_t last = m.w - (g.kernel_w - 1) * g.dilation_w - 1 + g.pad_left;  // of the start of a whole filter
  return std::min(last / g.stride_w + 1, m.out_w) - ow;
}

void row(const Image& m, DepthwiseRow d, int64_t n, int64_t oh, char* scratch) {
  const ConvGeometry& g = *m.g;
  const float** taps = reinterpret_cast<const float**>(scratch);
  int64_t* offsets = reinterpret_cast<int64_t*>(taps + g.taps());
  d.taps = taps;
  d.weight_offset = offsets;
  const int64_t ih = oh * g.stride_h - g.pad_top;
  const Range lines = inside(ih, m.h, g.kernel_h, g.dilation_h);
  float* const y = d.y;
  const float* const residual = d.residual;
  for (int64_t ow = 0; ow < m.out_w; ow += d.count) {
    const int64_t iw = ow * g.stride_w - g.pad_left;
    const Range columns = inside(iw, m.w, g.kernel_w, g.dilation_w);
    d.count = stretch(m, ow, columns);
    d.n_taps = 0;
    for (int64_t kh = lines.begin; kh < lines.end; ++kh) {
      const float* line = m.x + ((n * m.h + ih + kh * g.dilation_h) * m.w + iw) * d.pixel;
      for (int64_t kw = columns.begin; kw < columns.end; ++kw, ++d.n_taps) {
        taps[d.n_taps] = line + kw * g.dilation_w * d.pixel;
        offsets[d.n_taps] = (kh * g.kernel_w + kw) * kChannelBlock;
      }
    }
    d.y = y + ow * d.channels;
    d.residual = residual ? residual + ow * d.channels : nullptr;
    d.n_lines = std::max<int64_t>(0, lines.end - lines.begin);
    const bool whole = columns.begin == 0 && columns.end == g.kernel_w && g.dilation_w == 1 && d.n_lines > 0;
    auto kernel = m.table->any;
    if (whole && g.stride_w <= 2 && g.kernel_w == 3) kernel = m.table->k3[g.stride_w - 1];
    if (whole && g.stride_w <= 2 && g.kernel_w == 5) kernel = m.table->k5[g.stride_w - 1];
    kernel(d);
  }
}

// ---- the reference ----

void reference(const Params& p, const Tensor& x, const float* w, const float* bias, const float* residual,
               const Tensor& y) {
  const ConvGeometry& g = p.g;
  const int64_t h = x.shape[1], width = x.shape[2], channels = g.in_channels;
  const float* in = x.as<const float>();
  int64_t index = 0;
  for (int64_t n = 0; n < y.shape[0]; ++n)
    for (int64_t oh = 0; oh < y.shape[1]; ++oh)
      for (int64_t ow = 0; ow < y.shape[2]; ++ow)
        for (int64_t c = 0; c < channels; ++c, ++index) {
          double sum = 0.0;
          for (int64_t t = 0; t < g.taps(); ++t) {
            const int64_t ih = oh * g.stride_h - g.pad_top + t / g.kernel_w * g.dilation_h;
            const int64_t iw = ow * g.stride_w - g.pad_left + t % g.kernel_w * g.dilation_w;
            if (ih < 0 || ih >= h || iw < 0 || iw >= width) continue;
            const float weight = w[(c / kChannelBlock * g.taps() + t) * kChannelBlock + c % kChannelBlock];
            sum += static_cast<double>(in[((n * h + ih) * width + iw) * channels + c]) * static_cast<double>(weight);
          }
          y.as<float>()[index] =
              epilogue_reference(p.epilogue, sum, bias ? bias + c : nullptr, residual ? residual + index : nullptr);
        }
}

// Channels at a time. Of an image that lies in L2 so few that the lines of the input that a row of the output sees are
// still near when the next row comes; of a larger one all, because then memory is read in order.
int64_t channel_chunk(const ConvGeometry& g, int64_t height, int64_t width) {
  constexpr double kImageBytes = 480 << 10, kLineBytes = 64 << 10;
  constexpr int64_t kStep = 16;  // a cache line
  const double line = static_cast<double>(width) * sizeof(float), channels = static_cast<double>(g.in_channels);
  const double lines = line * static_cast<double>(g.kernel_h);
  if (line * channels * static_cast<double>(height) > kImageBytes || lines * channels <= kLineBytes)
    return g.in_channels;
  return std::max(kStep, static_cast<int64_t>(kLineBytes / lines) / kStep * kStep);
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const Tensor &x = in[0], &y = out[0];
  const float* bias = present(in, n_in, 2) ? in[2].as<const float>() : nullptr;
  const float* residual = present(in, n_in, 3) ? in[3].as<const float>() : nullptr;
  if (y.elements() == 0) return MRT_OK;
  if (!p.table) {
    reference(p, x, in[1].as<const float>(), bias, residual, y);
    return MRT_OK;
  }
  const ConvGeometry& g = p.g;
  const Epilogue& e = p.epilogue;
  const bool after = !e.clamp_only();
  const int64_t channels = g.in_channels, out_h = y.shape[1], row_size = y.shape[2] * channels;
  const Image image{&g, p.table, x.as<const float>(), x.shape[1], x.shape[2], y.shape[2]};
  DepthwiseRow common{};
  common.pixel = common.channels = channels;
  common.step = g.stride_w * channels;
  common.w = in[1].as<const float>();
  common.w_block = g.taps() * kChannelBlock;
  common.bias = bias;
  common.lo = e.lo;
  common.hi = e.hi;
  common.residual_after = e.residual_after;
  const int64_t rows = y.shape[0] * out_h;
  // Pieces of rows, several a thread where there are enough.
  const int64_t pieces = ctx.threads > 1 ? std::min<int64_t>(rows, 4 * int64_t{ctx.threads}) : 1;
  const size_t per_thread = tap_scratch(g);
  const int64_t chunk = channel_chunk(g, x.shape[1], x.shape[2]), chunks = (channels + chunk - 1) / chunk;
  parallel_items(ctx, pieces, ctx.threads, [&](int64_t worker, int64_t piece) {
    const int64_t begin = rows * piece / pieces, end = rows * (piece + 1) / pieces;
    for (int64_t i = 0; i < chunks; ++i) {
      DepthwiseRow d = common;
      d.c0 = i * chunk;
      d.c1 = std::min(channels, d.c0 + chunk);
      for (int64_t r = begin; r < end; ++r) {
        d.y = y.as<float>() + r * row_size;
        const float* from = residual ? residual + r * row_size : nullptr;
        d.residual = after && e.residual_after ? nullptr : from;
        row(image, d, r / out_h, r % out_h, static_cast<char*>(ctx.scratch) + static_cast<size_t>(worker) * per_thread);
        if (after) {
          const float* added = e.residual_after && from ? from + d.c0 : nullptr;
          p.epilogue_table->apply(e, d.y + d.c0, channels, y.shape[2], d.c1 - d.c0, added, channels);
        }
      }
    }
  });
  return MRT_OK;
}

// ---- packing ----

Status decode_packing(const char* packing, const Tensor& weight, const Attrs& attrs, ConvGeometry* g, size_t* bytes) {
  MRT_TRY(check_packing_name(kContract, packing, "depthwise_f32_c8_v1"));
  MRT_TRY(decode_depthwise(attrs, g));
  MRT_TRY(check_conv_weight(kContract, *g, weight, g->in_channels, 1));
  const int64_t size = packed_size(*g);
  if (size < 0) return fail(MRT_ERROR_SHAPE, "%s: the packed weight is too large to address", kContract);
  *bytes = static_cast<size_t>(size);
  return Status();
}

Status packed_bytes(const char* packing, const Tensor& weight, const Attrs& attrs, size_t* out) {
  ConvGeometry g;
  return decode_packing(packing, weight, attrs, &g, out);
}

// [C, 1, kh, kw] to [ceil(C / 8)][kh * kw][8].
Status pack(const char* packing, const Tensor& weight, const Attrs& attrs, void* out) {
  ConvGeometry g;
  size_t bytes = 0;
  MRT_TRY(decode_packing(packing, weight, attrs, &g, &bytes));
  const float* w = weight.as<const float>();
  float* to = static_cast<float*>(out);
  for (int64_t block = 0; block < blocks_of(g.in_channels); ++block)
    for (int64_t t = 0; t < g.taps(); ++t)
      for (int64_t j = 0; j < kChannelBlock; ++j) {
        const int64_t c = block * kChannelBlock + j;
        *to++ = c < g.in_channels ? w[c * g.taps() + t] : 0.0f;
      }
  return Status();
}

const char* kernel_name(const void* params, const Tensor*, int, const Tensor*, int) {
  const Params& p = *static_cast<const Params*>(params);
  return p.table ? p.table->name : "depthwise_conv2d_f32_reference";
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  return 2.0 * static_cast<double>(out[0].elements()) * static_cast<double>(p.g.taps());
}

const char* const kPackings[] = {"depthwise_f32_c8_v1", nullptr};
const char* const kKernels[] = {
#if defined(MRT_KERNELS_AVX2)
    "depthwise_conv2d_f32_4x8_avx2",
#endif
    "depthwise_conv2d_f32_4x4_scalar", nullptr};

}  // namespace

const DepthwiseTable* depthwise_table(Isa isa) {
  static const DepthwiseTable* const tables[] = {
#if defined(MRT_KERNELS_AVX2)
      &kDepthwiseAvx2,
#endif
      &kDepthwiseScalar, nullptr};
  return kernel_of(tables, isa);
}

extern const Operator kDepthwiseConv2dF32Operator = {kContract,   kPackings, kKernels,    sizeof(Params), prepare,
                                                     check,       scratch,   run,         packed_bytes,   pack,
                                                     kernel_name, flops,     {2, 4, 1, 1}};

}  // namespace mrt
