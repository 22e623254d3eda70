// depthwise_conv2d_f32: filters of one channel each over NHWC, as many of each channel.
//
// Where there are several, lines of the image are made in which each channel stands as often.
#include <algorithm>
#include <cstring>

#include "kernels/checks.h"
#include "kernels/conv2d/geometry.h"
#include "kernels/depthwise/lines.h"
#include "kernels/epilogue/epilogue.h"
#include "kernels/gemm/pack.h"

namespace mrt {
namespace {

constexpr const char* kName = "depthwise_conv2d_f32";

constexpr Operand kInputs[] = {{"x", kF32, 4, kBatched},
                               {"w", kF32, 4, kPacked},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32, 4, kOptional | kResidual | kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, 4}};
constexpr Contract kContract = {
    kName, "depthwise_f32_c8_v1", kInputs, kOutputs, kConvAttributes, kDepthwiseGroups, kEpilogueAttributes};

struct Params {
  const DepthwiseTable* table;  // null: the reference
  const EpilogueTable* epilogue_table;
  Epilogue epilogue;
  ConvGeometry g;
};

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(decode_depthwise(attrs, kMaxConvExtent, &p.g));
  MRT_TRY(decode_epilogue(attrs, &p.epilogue));
  p.table = kDepthwise[isa];
  p.epilogue_table = kEpilogue[isa];
  return Status();
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_conv_images(kName, p.g, false, in[0], out[0]));
  return check_packed(kName, in[1], depthwise_packed_bytes(p.g));
}

// Filters of each channel.
int64_t repeats(const ConvGeometry& g) { return g.in_channels == 0 ? 1 : g.out_channels / g.in_channels; }
LineRing ring_of(const ConvGeometry& g, const Tensor& x) { return LineRing(g, x.shape[1], x.shape[2], 0); }

size_t scratch(const void* params, const Tensor* in, int, const Tensor* out, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  if (!p.table || has_no_elements(out[0])) return 0;
  const size_t lines = repeats(p.g) > 1 ? ring_of(p.g, in[0]).bytes() : 0;
  return (depthwise_scratch(p.g) + lines) * static_cast<size_t>(threads);
}

// ---- the reference ----

void reference(const Params& p, const Tensor& x, const float* w, const float* bias, const float* residual,
               const Tensor& y) {
  const ConvGeometry& g = p.g;
  const int64_t h = x.shape[1], width = x.shape[2], channels = g.out_channels;
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
            sum += static_cast<double>(in[((n * h + ih) * width + iw) * g.in_channels + c / repeats(g)]) *
                   static_cast<double>(weight);
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

// Channels [c, c + n) of the output's, each from the input channel that its filter sees.
void repeat_channels(const ConvGeometry& g, const float* x, int64_t pixels, int64_t c, int64_t n, float* to,
                     int64_t ldo) {
  constexpr int64_t kStored = 4;  // copies at once: what is too much of one channel, the next one overwrites
  const int64_t times = repeats(g), before = std::min(n, (times - c % times) % times);
  for (int64_t p = 0; p < pixels; ++p, x += g.in_channels, to += ldo) {
    const float* from = x + c / times;
    int64_t i = before;
    if (before > 0) std::fill_n(to, before, *from++);
    for (; times == 2 && i + 4 <= n; i += 4, from += 2) {
      const float pairs[] = {from[0], from[0], from[1], from[1]};
      std::memcpy(to + i, pairs, sizeof pairs);
    }
    for (; i + std::max(times, kStored) <= n; i += times, ++from) {
      const float value = *from;
      for (int64_t j = 0; j < times; j += kStored) {
        const int64_t at = i + std::min(j, std::max<int64_t>(0, times - kStored));
        const float copies[kStored] = {value, value, value, value};
        std::memcpy(to + at, copies, sizeof copies);
      }
    }
    for (int64_t j = 0; i < n; ++i) {
      to[i] = *from;
      if (++j == times) j = 0, ++from;
    }
  }
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
  const bool after = !e.clamp_only(), repeated = repeats(g) > 1;
  const int64_t channels = g.out_channels, out_h = y.shape[1], row_size = y.shape[2] * channels;
  const int64_t h = x.shape[1], line = x.shape[2] * g.in_channels;
  const DepthwiseImage image{&g, p.table, h, x.shape[2], y.shape[2]};
  const LineRing ring = ring_of(g, x);
  DepthwiseRow common{};
  common.pixel = repeated ? ring.chunk : g.in_channels;
  common.step = g.stride_w * common.pixel;
  common.channels = channels;
  common.w_block = g.taps() * kChannelBlock;
  common.lo = e.lo;
  common.hi = e.hi;
  common.residual_after = e.residual_after;
  const int64_t rows = y.shape[0] * out_h;
  // Pieces of rows, several a thread where there are enough.
  const double work = element_count(y) * static_cast<double>(g.taps());
  const int64_t wanted = ctx.threads > 1 ? 4 * int64_t{ctx.threads} : 1;
  const int64_t pieces = std::min(rows, std::max(wanted, pieces_to_leave(ctx, work)));
  const size_t for_row = depthwise_scratch(g), per_thread = for_row + (repeated ? ring.bytes() : 0);
  const int64_t chunk = repeated ? ring.chunk : channel_chunk(g, x.shape[1], x.shape[2]);
  parallel_items(ctx, pieces, ctx.threads, [&](int64_t worker, int64_t piece) {
    const int64_t begin = rows * piece / pieces, end = rows * (piece + 1) / pieces;
    char* const worker_scratch = static_cast<char*>(ctx.scratch) + static_cast<size_t>(worker) * per_thread;
    const float** const lines = depthwise_lines(worker_scratch);
    for (int64_t c = 0; c < channels; c += chunk) {
      DepthwiseRow d = common;
      d.n = std::min(channels - c, chunk);
      d.w = in[1].as<const float>() + c / kChannelBlock * d.w_block;
      d.bias = bias ? bias + c : nullptr;
      if (repeated) ring.forget(worker_scratch + for_row);
      for (int64_t r = begin; r < end; ++r) {
        d.y = y.as<float>() + r * row_size + c;
        const float* from = residual ? residual + r * row_size + c : nullptr;
        d.residual = after && e.residual_after ? nullptr : from;
        if (repeated) {
          ring.fill(g, h, out_h, r, worker_scratch + for_row, lines, [&](int64_t i, float* to) {
            repeat_channels(g, x.as<const float>() + i * line, ring.width, c, d.n, to, ring.chunk);
          });
        } else {
          const int64_t first = r % out_h * g.stride_h - g.pad_top;
          for (int64_t kh = 0; kh < g.kernel_h; ++kh) {
            const int64_t ih = first + kh * g.dilation_h;
            lines[kh] = ih >= 0 && ih < h ? x.as<const float>() + (r / out_h * h + ih) * line + c : nullptr;
          }
        }
        depthwise_row(image, d, r % out_h, worker_scratch);
        if (after) {
          p.epilogue_table->apply(e, d.y, channels, y.shape[2], d.n, e.residual_after ? from : nullptr, channels);
        }
      }
    }
  });
  return MRT_OK;
}

// ---- packing ----

Status pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  ConvGeometry g;
  MRT_TRY(decode_depthwise(attrs, kMaxConvExtent, &g));
  MRT_TRY(check_conv_filter(kName, g, weight, g.out_channels, 1));
  *bytes = depthwise_packed_bytes(g);
  if (out != nullptr) depthwise_pack(g, weight.as<const float>(), static_cast<float*>(out));
  return Status();
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  return 2.0 * static_cast<double>(out[0].elements()) * static_cast<double>(p.g.taps());
}

}  // namespace

const Operator kOperator_depthwise_conv2d_f32 = {&kContract, kDepthwise.rows, sizeof(Params), prepare, check,
                                                 run,        scratch,         flops,          pack};

}  // namespace mrt
