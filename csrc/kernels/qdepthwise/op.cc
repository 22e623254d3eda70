// depthwise_conv2d_u8s8: one int8 filter a channel over NHWC of uint8.
//
// The sums are whole numbers below 2^24, which float arithmetic gets right: lines of the image become floats, a few
// channels at a time and once each, the float kernel runs over them, and its sums are finished like those of
// gemm_u8s8. (Products of bytes as such would need them in pairs along the filter, which lie `channels` apart.)
#include <algorithm>
#include <cinttypes>

#include "kernels/checks.h"
#include "kernels/depthwise/lines.h"
#include "kernels/gemm/pack.h"
#include "kernels/qdepthwise/convert.h"
#include "kernels/qdepthwise/quads.h"
#include "kernels/qgemm/blocked.h"
#include "kernels/qgemm/reference.h"

namespace mrt {
namespace {

constexpr const char* kName = "depthwise_conv2d_u8s8";

constexpr Operand kInputs[] = {{"x", kU8, 4, kBatched},
                               {"w", kS8 | kS16, 4, kPacked},
                               {"scale", kF32, 1},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32, 4, kOptional | kResidual | kBatched},
                               {"a_scale", kF32, 0, kOptional},
                               {"a_zero", kU8, 0, kOptional}};
constexpr Operand kOutputs[] = {{"y", kQOutputs, 4}};
constexpr Attribute kAttributes[] = {integer("groups", 1, kMaxConvExtent).with(kDerived), integer("w_wide", 0, 1, 0)};
constexpr Contract kContract = {kName,
                                "depthwise_u8s8_c8_v1",
                                kInputs,
                                kOutputs,
                                kConvAttributes,
                                kAttributes,
                                kEpilogueAttributes,
                                kQOutputAttributes,
                                kQInputAttributes};
constexpr int64_t kMaxTaps = 512;      // 255 * 128 * 512 < 2^24
constexpr int64_t kMaxWideTaps = 256;  // 255 * 255 * 256 < 2^24
constexpr DType kInt16{MRT_INT, 16};

struct Params {
  const DepthwiseTable* table;  // null: the reference
  const QDepthwiseTable* convert;
  const QuadTable* quads;   // not null: lines become quads, not floats
  const QTileTable* tiles;  // for the finish
  QOutput output;
  ConvGeometry g;
  int64_t x_zero;
  int64_t wide;  // weights are bytes less a zero point: up to 255 either way, as only floats hold them here
};

Status decode(const Attrs& attrs, ConvGeometry* g, int64_t* wide) {
  MRT_TRY(decode_depthwise(attrs, 1, g));
  MRT_TRY(attr_int(attrs, "w_wide", wide));
  const int64_t max_taps = *wide ? kMaxWideTaps : kMaxTaps;
  if (g->taps() <= max_taps) return Status();
  return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: a filter of %" PRId64 " positions, expected at most %" PRId64, kName,
              g->taps(), max_taps);
}

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(decode(attrs, &p.g, &p.wide));
  MRT_TRY(attr_int(attrs, "a_zero", &p.x_zero));
  MRT_TRY(decode_q_output(attrs, &p.output));
  p.table = kDepthwise[isa];
  p.convert = kQDepthwise[isa];
  p.quads = p.wide ? nullptr : quad_table(isa, p.g);
  p.tiles = kQTile[isa];
  return Status();
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_conv_images(kName, p.g, false, in[0], out[0]));
  MRT_TRY(check_packed(kName, in[1], depthwise_packed_bytes(p.g)));
  return check_q_operands(kName, p.output, p.g.out_channels, in, n_in, out[0]);
}

// Scratch of a thread: that of a row, the lines it has as floats, a row's sums and their finish.
struct Layout {
  LineRing ring;
  size_t row, sums, folded;

  Layout(const ConvGeometry& g, const Tensor& x, const Tensor& y)
      : ring(g, x.shape[1], x.shape[2], y.shape[2]),
        row(depthwise_scratch(g)),
        sums(align64(static_cast<size_t>(y.shape[2] * ring.chunk) * sizeof(float))),
        folded(align64(static_cast<size_t>(ring.chunk / kQPanel) * sizeof(QFolded))) {}
  size_t all() const { return row + ring.bytes() + sums + folded; }
};

size_t scratch(const void* params, const Tensor* in, int, const Tensor* out, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  if (!p.table || has_no_elements(out[0])) return 0;
  const size_t each = p.quads ? quad_scratch(p.g, out[0].shape[2]) : Layout(p.g, in[0], out[0]).all();
  return each * static_cast<size_t>(threads);
}

struct Call {
  const Params* p;
  const Tensor *x, *y;
  const float* w;
  QFinishCall finish;  // of row and channel 0
  Layout layout;
};

// The lines of the image that row r of the output sees, channels [c0, c0 + n), as floats.
void fill_lines(const Call& call, int64_t r, int64_t c0, int64_t n, char* worker_scratch) {
  const Params& p = *call.p;
  const LineRing& ring = call.layout.ring;
  const int64_t w = ring.width, channels = p.g.in_channels;
  ring.fill(p.g, call.x->shape[1], call.y->shape[1], r, worker_scratch + call.layout.row,
            depthwise_lines(worker_scratch), [&](int64_t line, float* to) {
              const uint8_t* const from = call.x->as<const uint8_t>() + line * w * channels + c0;
              p.convert->widen(from, w, channels, n, static_cast<int32_t>(p.x_zero), to, ring.chunk);
            });
}

// The finish of a row's sums of the 16 channels from c0 + c on, without where they go.
QFinishCall finish_of(const Call& call, int64_t c0, int64_t c, int64_t n) {
  static const int32_t kNoOffset[kQPanel] = {};
  QFinishCall f = call.finish;
  f.ld = call.layout.ring.chunk;
  f.floats = f.folds();
  f.offset = kNoOffset;
  f.rows = call.y->shape[2];
  f.n = std::min(kQPanel, n - c);
  f.scale += c0 + c;
  if (f.bias) f.bias += c0 + c;
  return f;
}

// Row r of y, channels [c0, c0 + n), from its sums; `folded` of each 16 of them.
void finish_row(const Call& call, int64_t r, int64_t c0, int64_t n, float* sums, const QFolded* folded) {
  for (int64_t c = 0; c < n; c += kQPanel) {
    QFinishCall f = finish_of(call, c0, c, n);
    f.acc = reinterpret_cast<int32_t*>(sums + c);
    if (f.folds()) f.folded = folded + c / kQPanel;
    const int64_t at = r * call.y->shape[2] * call.p->g.in_channels + c0 + c;
    if (f.residual) f.residual += at;
    f.y = static_cast<char*>(f.y) + at * (f.quantized ? 1 : 4);
    call.p->tiles->finish(f);
  }
}

void run_piece(const Call& call, const DepthwisePiece& piece, char* worker_scratch) {
  const Params& p = *call.p;
  const ConvGeometry& g = p.g;
  const Layout& l = call.layout;
  const int64_t c0 = piece.c0, n = piece.c1 - c0, out_w = call.y->shape[2], chunk = l.ring.chunk;
  const DepthwiseImage image{&g, p.table, call.x->shape[1], call.x->shape[2], out_w};
  char* const lines = worker_scratch + l.row;
  float* const sums = reinterpret_cast<float*>(lines + l.ring.bytes());
  QFolded* const folded = reinterpret_cast<QFolded*>(lines + l.ring.bytes() + l.sums);
  DepthwiseRow d{};
  d.pixel = chunk;
  d.step = g.stride_w * chunk;
  d.channels = chunk;
  d.n = n;
  d.w_block = g.taps() * kChannelBlock;
  d.w = call.w + c0 / kChannelBlock * d.w_block;
  d.lo = -__builtin_inff();
  d.hi = __builtin_inff();
  d.y = sums;
  l.ring.forget(lines);
  for (int64_t c = 0; c < n && call.finish.folds(); c += kQPanel) {
    folded[c / kQPanel] = q_fold(finish_of(call, c0, c, n));
  }
  for (int64_t r = piece.begin; r < piece.end; ++r) {
    fill_lines(call, r, c0, n, worker_scratch);
    depthwise_row(image, d, r % call.y->shape[1], worker_scratch);
    if (!call.finish.folds()) p.convert->to_ints(sums, out_w * chunk);
    finish_row(call, r, c0, n, sums, folded);
  }
}

void reference(const Params& p, const Tensor& x, const float* w, const QFinishCall& f, const Tensor& y) {
  const ConvGeometry& g = p.g;
  const int64_t h = x.shape[1], width = x.shape[2], channels = g.in_channels;
  const float lowest = p.wide ? -255.0f : -128.0f, highest = p.wide ? 255.0f : 127.0f;
  const uint8_t* in = x.as<const uint8_t>();
  int64_t row = 0;
  for (int64_t n = 0; n < y.shape[0]; ++n)
    for (int64_t oh = 0; oh < y.shape[1]; ++oh)
      for (int64_t ow = 0; ow < y.shape[2]; ++ow, ++row)
        for (int64_t c = 0; c < channels; ++c) {
          int64_t sum = 0;
          for (int64_t t = 0; t < g.taps(); ++t) {
            const int64_t ih = oh * g.stride_h - g.pad_top + t / g.kernel_w * g.dilation_h;
            const int64_t iw = ow * g.stride_w - g.pad_left + t % g.kernel_w * g.dilation_w;
            if (ih < 0 || ih >= h || iw < 0 || iw >= width) continue;
            const float weight = w[(c / kChannelBlock * g.taps() + t) * kChannelBlock + c % kChannelBlock];
            if (!(weight >= lowest && weight <= highest)) continue;  // not what packing writes
            sum += (in[((n * h + ih) * width + iw) * channels + c] - p.x_zero) * static_cast<int64_t>(weight);
          }
          q_reference_element(f, sum, row, c);
        }
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  Params p = *static_cast<const Params*>(params);
  p.x_zero = q_a_zero(in, n_in, p.x_zero);
  const Tensor &x = in[0], &y = out[0];
  if (has_no_elements(y)) return MRT_OK;
  const QFinishCall finish = q_finish_call(p.output, in, n_in, y, p.g.out_channels);
  if (!p.table) {
    reference(p, x, in[1].as<const float>(), finish, y);
    return MRT_OK;
  }
  const double work = element_count(y) * static_cast<double>(p.g.taps());
  const int64_t threads = ctx.pool ? ctx.threads : 1;
  const int64_t wanted = std::max(threads > 1 ? 4 * threads : 1, pieces_to_leave(ctx, work));
  // body(piece, scratch) for all pieces of at most `near` channels, with `bytes` of scratch for each worker.
  const auto in_pieces = [&](int64_t near, size_t bytes, auto&& body) {
    const DepthwisePieces pieces(y.shape[0] * y.shape[1], y.shape[2], p.g.in_channels, near, threads, wanted);
    parallel_items(ctx, pieces.count(), threads, [&](int64_t worker, int64_t item) {
      body(pieces[item], static_cast<char*>(ctx.scratch) + static_cast<size_t>(worker) * bytes);
    });
  };
  const float* const w = in[1].as<const float>();
  if (p.quads) {
    const QuadImage image{&p.g,       p.quads,
                          p.tiles,    x.as<const uint8_t>(),
                          w,          static_cast<uint8_t>(p.x_zero),
                          x.shape[1], x.shape[2],
                          y.shape[1], y.shape[2],
                          finish};
    in_pieces(p.g.in_channels, quad_scratch(p.g, y.shape[2]),
              [&](const DepthwisePiece& piece, char* worker_scratch) { quad_rows(image, piece, worker_scratch); });
  } else {
    const Call call{&p, &x, &y, w, finish, Layout(p.g, x, y)};
    in_pieces(call.layout.ring.chunk, call.layout.all(),
              [&](const DepthwisePiece& piece, char* worker_scratch) { run_piece(call, piece, worker_scratch); });
  }
  return MRT_OK;
}

// ---- packing ----

Status check_wide(const Tensor& weight) {
  const int16_t* const w = weight.as<const int16_t>();
  for (int64_t i = 0; i < weight.elements(); ++i) {
    if (w[i] < -255 || w[i] > 255) {
      return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: a weight is %d, expected -255 to 255", kName, w[i]);
    }
  }
  return Status();
}

Status pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  ConvGeometry g;
  int64_t wide = 0;
  MRT_TRY(decode(attrs, &g, &wide));
  if ((weight.dtype == kInt16) != (wide != 0)) {
    return fail(MRT_ERROR_DTYPE, "%s: w is of %d bits, expected int16 where w_wide is 1 and int8 where it is 0", kName,
                weight.dtype.bits);
  }
  if (wide) MRT_TRY(check_wide(weight));
  MRT_TRY(check_conv_filter(kName, g, weight, g.in_channels, 1));
  *bytes = depthwise_packed_bytes(g);
  if (out == nullptr) return Status();
  if (weight.dtype == kInt16) {
    depthwise_pack(g, weight.as<const int16_t>(), static_cast<float*>(out));
  } else {
    depthwise_pack(g, weight.as<const int8_t>(), static_cast<float*>(out));
  }
  return Status();
}

const char* kernel_name(const void* params) {
  const Params& p = *static_cast<const Params*>(params);
  return p.quads ? kQuad.name_of(p.quads) : kQDepthwise.name_of(p.convert);
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  return 2.0 * element_count(out[0]) * static_cast<double>(p.g.taps());
}

// Quads where the set has them, else floats.
const Kernel kKernels[] = {
#define MRT_KERNEL(isa, name) MRT_WITH_##isa({Isa::isa, name, nullptr}, )
#include "kernels/qdepthwise/kernels.inc"
#include "kernels/qdepthwise/quads.inc"
#undef MRT_KERNEL
    {}};

}  // namespace

const Operator kOperator_depthwise_conv2d_u8s8 = {&kContract, kKernels, sizeof(Params), prepare, check,      run,
                                                  scratch,    flops,    pack,           nullptr, kernel_name};

}  // namespace mrt
