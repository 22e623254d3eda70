// conv2d_u8s8: a convolution over NHWC of uint8 with int8 weights, as a product whose rows are read where they lie
// (kernels/conv2d/op.cc), or gathered where a pixel has few channels; padding is the zero point of x.
#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "kernels/checks.h"
#include "kernels/conv2d/geometry.h"
#include "kernels/conv2d/rows.h"
#include "kernels/gemm/pack.h"
#include "kernels/qconv2d/reference.h"
#include "kernels/qgemm/blocked.h"

namespace mrt {
namespace {

constexpr const char* kName = "conv2d_u8s8";

constexpr Operand kInputs[] = {{"x", kU8, 4, kBatched},
                               {"w", kS8, 4, kPacked},
                               {"scale", kF32, 1},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32 | kU8, 4, kOptional | kResidual | kBatched},
                               {"a_scale", kF32, 0, kOptional},
                               {"a_zero", kU8, 0, kOptional},
                               {"w_zero", kS8, 1, kOptional}};
constexpr Operand kOutputs[] = {{"y", kQOutputs, 4}};
constexpr Contract kContract = {kName,
                                "conv2d_u8s8_nr16_v2",
                                kInputs,
                                kOutputs,
                                kConvAttributes,
                                kConvGroups,
                                kEpilogueAttributes,
                                kQOutputAttributes,
                                kQSumAttributes,
                                kQInputAttributes};

struct Params {
  const QTileTable* table;  // null: the reference
  QOutput output;
  ConvGeometry g;
  int64_t x_zero;
};

// Taps of fewer bytes than this are mostly padding of groups of four.
constexpr int64_t kFewChannels = 16;
constexpr int64_t kShortLine = 32;

// How the input is read; fixed by the attributes, since weights are packed for it.
enum class Access {
  taps,      // a tap of the product is a position of the filter
  lines,     // it is kernel_w pixels
  gathered,  // there is one, the whole filter, whose pixels are copied together
};
Access access_of(const ConvGeometry& g) {
  if (g.groups != 1 || g.dilation_w != 1 || g.kernel_w == 1) return Access::taps;
  const bool padded = g.pad_left != 0 || g.pad_right != 0;
  if (g.in_channels < kFewChannels && (padded || g.kernel_w * g.in_channels < kShortLine)) return Access::gathered;
  return padded ? Access::taps : Access::lines;
}
int64_t taps_of(const ConvGeometry& g) {
  const Access access = access_of(g);
  return access == Access::taps ? g.taps() : access == Access::lines ? g.kernel_h : 1;
}
int64_t depth_of(const ConvGeometry& g) { return g.taps() / std::max<int64_t>(1, taps_of(g)) * g.group_in(); }

int64_t packed_size(const ConvGeometry& g) {
  return checked_mul(q_packed_bytes(taps_of(g), depth_of(g), g.group_out()), g.groups);
}

// Scratch: a tap of zero points, then for each thread the rows it gathered and the product's own.
struct Layout {
  size_t zeros, gathered, product;
  int64_t rows;  // that are gathered at a time
};
constexpr int64_t kGatheredBytes = 64 << 10;

Layout layout_of(const ConvGeometry& g) {
  Layout l{};
  l.zeros = align64(static_cast<size_t>((access_of(g) == Access::lines ? g.kernel_w : 1) * g.in_channels));
  if (access_of(g) == Access::gathered) {
    const int64_t depth = std::max<int64_t>(1, depth_of(g));
    l.rows = std::max<int64_t>(kQMaxRows, kGatheredBytes / depth / kQMaxRows * kQMaxRows);
    l.gathered = align64(static_cast<size_t>(l.rows * depth + kShortLine));
  }
  l.product = align64(q_product_scratch(taps_of(g)));
  return l;
}

Status decode_geometry(const Attrs& attrs, ConvGeometry* g) {
  MRT_TRY(decode_conv(attrs, g));
  return q_check_depth(kName, g->taps(), g->group_in());
}

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(decode_geometry(attrs, &p.g));
  MRT_TRY(attr_int(attrs, "a_zero", &p.x_zero));
  MRT_TRY(decode_q_output(attrs, &p.output));
  p.table = kQTile[isa];
  MRT_TRY(decode_q_sum(attrs, p.table, &p.output));
  return Status();
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  const ConvGeometry& g = p.g;
  MRT_TRY(check_conv_images(kName, g, false, in[0], out[0]));
  MRT_TRY(check_packed(kName, in[1], packed_size(g)));
  MRT_TRY(q_check_zeros(kName, g.taps() * g.group_in(), in, n_in));
  return check_q_operands(kName, p.output, g.out_channels, in, n_in, out[0]);
}

size_t scratch(const void* params, const Tensor*, int, const Tensor*, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  if (!p.table) return 0;
  const Layout l = layout_of(p.g);
  return l.zeros + (l.gathered + l.product) * static_cast<size_t>(threads);
}

QProduct product_of(const Params& p, const Tensor* in, int n_in, const QFinishCall& finish, const Tensor& y) {
  const ConvGeometry& g = p.g;
  QProduct q{};
  q.table = p.table;
  q.m = y.shape[0] * y.shape[1] * y.shape[2];
  q.n = g.group_out();
  q.taps = taps_of(g);
  q.kc = depth_of(g);
  q.groups = g.groups;
  q.group_a = g.group_in();
  q.lda = g.in_channels;
  q.row_bytes = std::min(q.taps * q.kc * g.groups, g.stride_h * g.stride_w * g.in_channels);
  q.a_zero = q_a_zero(in, n_in, p.x_zero);
  q.w_zero = q_w_zero(in, n_in);
  q.w = in[1].as<const char>();
  q.finish = finish;
  return q;
}

// The results from row `m` of y on.
void skip_rows(QFinishCall* f, int64_t m) {
  f->y = static_cast<char*>(f->y) + m * f->ldy * (f->quantized ? 1 : 4);
  if (f->residual) f->residual += m * f->ldr;
  if (f->bytes) f->bytes += m * f->ldr;
}

// kernel_w pixels of the line at `line` (null: outside of the image) from pixel `iw` on.
void gather_line(const ConvRowsOf<uint8_t>& r, const uint8_t* line, int64_t iw, int64_t kernel_w, int zero,
                 uint8_t* out) {
  const int64_t first = std::max<int64_t>(iw, 0), last = std::min(iw + kernel_w, r.w);
  if (!line || last - first < kernel_w) std::memset(out, zero, static_cast<size_t>(kernel_w * r.pixel));
  if (line && first < last) {
    std::memcpy(out + (first - iw) * r.pixel, line + first * r.pixel, static_cast<size_t>((last - first) * r.pixel));
  }
}

// The same for every line of the filter and `count` pixels of y, of which all lies inside of the image: one move, or
// two, of a fixed size a line, of which what is too much is written over by the next.
template <int64_t kBytes>
uint8_t* gather_inside(const uint8_t* const* lines, int64_t n_lines, int64_t bytes, int64_t at, int64_t step,
                       int64_t count, uint8_t* out) {
  for (; count > 0; --count, at += step) {
    for (int64_t i = 0; i < n_lines; ++i, out += bytes) std::memcpy(out, lines[i] + at, kBytes);
  }
  return out;
}

// What pixels [ow, ow_end) of a row of y see, one after another.
uint8_t* gather_row(const ConvGeometry& g, const ConvRowsOf<uint8_t>& r, const uint8_t* end, int zero,
                    const uint8_t* image, int64_t oh, int64_t ow, int64_t ow_end, uint8_t* out) {
  constexpr int64_t kMaxLines = 16;
  const int64_t bytes = g.kernel_w * r.pixel, top = oh * g.stride_h - g.pad_top;
  const auto line_of = [&](int64_t kh) {
    const int64_t ih = top + kh * g.dilation_h;
    return ih >= 0 && ih < r.h ? image + ih * r.line : nullptr;
  };
  const auto start_of = [&](int64_t pixel) { return pixel * g.stride_w - g.pad_left; };
  // Those between the padding of both sides.
  const int64_t inside = (g.pad_left + g.stride_w - 1) / g.stride_w;
  const int64_t inside_end = r.w < g.kernel_w ? 0 : std::min(ow_end, (r.w - g.kernel_w + g.pad_left) / g.stride_w + 1);
  const uint8_t* lines[kMaxLines];
  bool whole = bytes <= kShortLine && g.kernel_h <= kMaxLines;
  for (int64_t kh = 0; whole && kh < g.kernel_h; ++kh) {
    lines[kh] = line_of(kh);
    whole = lines[kh] && end - lines[kh] >= start_of(inside_end) * r.pixel + kShortLine;
  }
  while (ow < ow_end) {
    if (whole && ow >= inside && ow < inside_end) {
      const int64_t at = start_of(ow) * r.pixel, step = g.stride_w * r.pixel;
      out = bytes <= kShortLine / 2
                ? gather_inside<kShortLine / 2>(lines, g.kernel_h, bytes, at, step, inside_end - ow, out)
                : gather_inside<kShortLine>(lines, g.kernel_h, bytes, at, step, inside_end - ow, out);
      ow = inside_end;
      continue;
    }
    for (int64_t kh = 0; kh < g.kernel_h; ++kh, out += bytes) {
      gather_line(r, line_of(kh), start_of(ow), g.kernel_w, zero, out);
    }
    ++ow;
  }
  return out;
}

// What rows [m0, m1) of y see, one after another.
void gather(const ConvGeometry& g, const ConvRowsOf<uint8_t>& r, const uint8_t* end, int zero, int64_t m0, int64_t m1,
            uint8_t* out) {
  int64_t ow = m0 % r.out_w, oh = m0 / r.out_w % r.out_h, n = m0 / r.out_w / r.out_h;
  while (m0 < m1) {
    const int64_t count = std::min(m1 - m0, r.out_w - ow);
    out = gather_row(g, r, end, zero, r.x + n * r.image, oh, ow, ow + count, out);
    m0 += count;
    ow = 0;
    if (++oh < r.out_h) continue;
    oh = 0;
    ++n;
  }
}

// A block of rows at a time, each gathered first.
void run_gathered(const Params& p, const QProduct& product, const ConvRowsOf<uint8_t>& rows, const uint8_t* end,
                  KernelContext& ctx, char* scratch) {
  const Layout l = layout_of(p.g);
  const int64_t threads = ctx.pool ? ctx.threads : 1, panels = (product.n + kQPanel - 1) / kQPanel;
  const int64_t each = threads > 1 ? std::min(l.rows, (product.m + 4 * threads - 1) / (4 * threads)) : l.rows;
  parallel_items(ctx, (product.m + each - 1) / each, threads, [&](int64_t worker, int64_t item) {
    char* const worker_scratch = scratch + static_cast<size_t>(worker) * (l.gathered + l.product);
    const int64_t begin = item * each, count = std::min(product.m - begin, each);
    uint8_t* const matrix = reinterpret_cast<uint8_t*>(worker_scratch);
    gather(p.g, rows, end, static_cast<int>(product.a_zero), begin, begin + count, matrix);
    QProduct q = product;
    q.m = count;
    q.a = matrix;
    q.lda = q.kc;
    q.rows_of = nullptr;
    q.watch = ctx.watch;
    skip_rows(&q.finish, begin);
    q_product_block(q, 0, count, 0, panels, worker_scratch + l.gathered);
  });
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const ConvGeometry& g = p.g;
  const Tensor &x = in[0], &y = out[0];
  if (has_no_elements(y)) return MRT_OK;
  const QFinishCall finish = q_finish_call(p.output, in, n_in, y, g.out_channels);
  if (!p.table) {
    qconv2d_reference(g, taps_of(g), q_a_zero(in, n_in, p.x_zero), finish, x, in[1].as<const char>(),
                      q_w_zero(in, n_in), y);
    return MRT_OK;
  }
  char* const scratch = static_cast<char*>(ctx.scratch);
  char* const behind = scratch + layout_of(g).zeros;
  std::memset(scratch, static_cast<int>(q_a_zero(in, n_in, p.x_zero)), layout_of(g).zeros);
  ConvRowsOf<uint8_t> rows = conv_rows_of<uint8_t>(g, x, y, access_of(g) == Access::lines ? 1 : g.kernel_w);
  rows.zeros = reinterpret_cast<const uint8_t*>(scratch);
  QProduct q = product_of(p, in, n_in, finish, y);
  if (access_of(g) == Access::gathered) {
    run_gathered(p, q, rows, rows.x + x.shape[0] * rows.image, ctx, behind);
    return MRT_OK;
  }
  const bool plain = g.taps() == 1 && g.stride_h == 1 && g.stride_w == 1 && g.pad_top + g.pad_left == 0 &&
                     g.pad_bottom + g.pad_right == 0;
  if (plain) {
    q.a = rows.x;
  } else {
    q.rows_of = conv_rows<uint8_t>;
    q.user = &rows;
  }
  run_q_product(q, ctx, behind);
  return MRT_OK;
}

// ---- packing ----

// OIHW as products of taps: a position of the filter, a line of it or all of it, where k runs over pixels and channels.
Status pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  ConvGeometry g;
  int64_t a_max = 0;
  MRT_TRY(decode_geometry(attrs, &g));
  MRT_TRY(attr_int(attrs, "a_max", &a_max));
  MRT_TRY(check_conv_filter(kName, g, weight, g.out_channels, g.group_in()));
  *bytes = packed_size(g);
  if (out == nullptr) return Status();
  const QPanelLayout l = q_panel_layout(taps_of(g), depth_of(g));
  const int64_t group_bytes = q_packed_bytes(l.taps, l.kc, g.group_out());
  const int64_t filter = g.group_in() * g.taps();
  // k of a tap to its place in a filter [I][kh][kw]; taps are g.taps() / l.taps positions apart.
  const auto at = [&](int64_t tap, int64_t k) {
    return k % g.group_in() * g.taps() + tap * (g.taps() / l.taps) + k / g.group_in();
  };
  for (int64_t group = 0; group < g.groups; ++group) {
    const int8_t* const src = weight.as<const int8_t>() + group * g.group_out() * filter;
    q_pack_panels(QSource{src, filter, g.group_out(), a_max}, l, at, static_cast<char*>(out) + group * group_bytes);
  }
  return Status();
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  return conv_flops(p.g, out[0].shape[0] * out[0].shape[1] * out[0].shape[2]);
}

}  // namespace

const Operator kOperator_conv2d_u8s8 = {&kContract, kQTile.rows, sizeof(Params), prepare, check,
                                        run,        scratch,     flops,          pack};

}  // namespace mrt
