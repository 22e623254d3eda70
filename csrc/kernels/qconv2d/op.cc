// conv2d_u8s8: a convolution over NHWC of uint8 with int8 weights, as a product whose rows are read where they lie
// (kernels/conv2d/op.cc); padding is the zero point of x.
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

constexpr const char* kContract = "conv2d_u8s8";
constexpr const char* kPacking = "conv2d_u8s8_nr16_v1";

struct Params {
  const QTileTable* table;  // null: the reference
  QOutput output;
  ConvGeometry g;
  int64_t x_zero;
};

// Taps of fewer bytes than this are mostly padding of groups of four: whole lines of the filter are read instead, from
// a padded copy if need be.
constexpr int64_t kFewChannels = 16;

// How the input is read; which of them is fixed by the attributes, since weights are packed for it.
struct Access {
  bool lines;   // a tap is kernel_w pixels
  bool copied;  // from a padded copy in scratch
};
Access access_of(const ConvGeometry& g) {
  const bool contiguous = g.groups == 1 && g.dilation_w == 1 && g.kernel_w > 1;
  if (contiguous && g.pad_left == 0 && g.pad_right == 0) return {true, false};
  if (contiguous && g.in_channels < kFewChannels) return {true, true};
  return {false, false};
}
int64_t taps_of(const ConvGeometry& g) { return access_of(g).lines ? g.kernel_h : g.taps(); }
int64_t depth_of(const ConvGeometry& g) { return access_of(g).lines ? g.kernel_w * g.in_channels : g.group_in(); }

int64_t packed_size(const ConvGeometry& g) {
  return checked_mul(q_packed_bytes(taps_of(g), depth_of(g), g.group_out()), g.groups);
}

// Lines of the input that so many rows of the output see.
int64_t strip_lines(const ConvGeometry& g, int64_t rows) {
  return (rows - 1) * g.stride_h + (g.kernel_h - 1) * g.dilation_h + 1;
}

// Scratch: a tap of zero points, then for each thread a padded strip of the input and the product's own.
struct Layout {
  size_t zeros, strip, product;
  int64_t padded_w;
  int64_t strip_rows;  // of the output
};
constexpr int64_t kStripBytes = 64 << 10;
constexpr int64_t kMaxStripBytes = int64_t{1} << 40;

Layout layout_of(const Params& p, const Tensor& x) {
  const ConvGeometry& g = p.g;
  const Access access = access_of(g);
  Layout l{};
  l.zeros = align64(static_cast<size_t>((access.lines ? g.kernel_w : 1) * g.in_channels));
  l.padded_w = x.shape[2] + g.pad_left + g.pad_right;
  if (access.copied) {
    const int64_t line = std::max<int64_t>(1, l.padded_w * g.in_channels);
    l.strip_rows = std::max<int64_t>(1, (kStripBytes / line - strip_lines(g, 1)) / g.stride_h + 1);
    l.strip = align64(static_cast<size_t>(strip_lines(g, l.strip_rows) * line));
  }
  l.product = align64(q_product_scratch(taps_of(g)));
  return l;
}

Status decode_geometry(const Attrs& attrs, ConvGeometry* g) {
  MRT_TRY(decode_conv(attrs, kContract, g));
  return q_check_depth(kContract, g->taps(), g->group_in());
}

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(decode_geometry(attrs, &p.g));
  p.x_zero = 0;
  MRT_TRY(attr_int(attrs, kContract, "a_zero", 0, 255, &p.x_zero));
  MRT_TRY(decode_q_output(attrs, kContract, &p.output));
  p.table = q_tile_table(isa);
  return Status();
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  const ConvGeometry& g = p.g;
  MRT_TRY(check_u8(kContract, "x", in[0], 4));
  MRT_TRY(check_conv_images(kContract, g, false, in[0], out[0]));
  MRT_TRY(check_packed(kContract, in[1], packed_size(g)));
  if (p.table && access_of(g).copied) {
    const int64_t line = checked_mul(in[0].shape[2] + g.pad_left + g.pad_right, g.in_channels);
    if (checked_mul(line, strip_lines(g, 1)) < 0 || checked_mul(line, strip_lines(g, 1)) > kMaxStripBytes) {
      return fail(MRT_ERROR_SHAPE,
                  "%s: the padded lines that one row of the output sees take more than %" PRId64 " bytes", kContract,
                  kMaxStripBytes);
    }
  }
  return check_q_operands(kContract, p.output, g.out_channels, in, n_in, out[0]);
}

size_t scratch(const void* params, const Tensor* in, int, const Tensor*, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  if (!p.table) return 0;
  const Layout l = layout_of(p, in[0]);
  return l.zeros + (l.strip + l.product) * static_cast<size_t>(threads);
}

// Lines [first, first + lines) of an image with padding on all sides.
void copy_padded(const Params& p, const ConvRowsOf<uint8_t>& rows, const uint8_t* image, int64_t padded_w,
                 int64_t first, int64_t lines, uint8_t* out) {
  const ConvGeometry& g = p.g;
  const size_t line = static_cast<size_t>(padded_w * g.in_channels), row = static_cast<size_t>(rows.line);
  const size_t left = static_cast<size_t>(g.pad_left * g.in_channels);
  const int zero = static_cast<int>(p.x_zero);
  for (int64_t i = first; i < first + lines; ++i, out += line) {
    if (i < 0 || i >= rows.h || row == 0) {
      std::memset(out, zero, line);
      continue;
    }
    std::memset(out, zero, left);
    std::memcpy(out + left, image + static_cast<size_t>(i) * row, row);
    std::memset(out + left + row, zero, line - left - row);
  }
}

ConvRowsOf<uint8_t> rows_of(const ConvGeometry& g, const Tensor& x, const Tensor& y, const uint8_t* zeros) {
  ConvRowsOf<uint8_t> r{};
  r.x = x.as<const uint8_t>();
  r.zeros = zeros;
  r.h = x.shape[1];
  r.w = x.shape[2];
  r.out_h = y.shape[1];
  r.out_w = y.shape[2];
  r.pad_top = g.pad_top;
  r.pad_left = g.pad_left;
  r.stride_h = g.stride_h;
  r.stride_w = g.stride_w;
  r.dilation_h = g.dilation_h;
  r.dilation_w = g.dilation_w;
  r.kernel_h = g.kernel_h;
  r.taps_w = access_of(g).lines ? 1 : g.kernel_w;
  r.pixel = g.in_channels;
  r.line = r.w * r.pixel;
  r.image = r.h * r.line;
  return r;
}

QProduct product_of(const Params& p, const Tensor* in, const QFinishCall& finish, const Tensor& y) {
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
  q.a_zero = p.x_zero;
  q.w = in[1].as<const char>();
  q.finish = finish;
  return q;
}

// The results from row `m` of y on.
void skip_rows(QFinishCall* f, int64_t m) {
  f->y = static_cast<char*>(f->y) + m * f->ldy * (f->quantized ? 1 : 4);
  if (f->residual) f->residual += m * f->ldr;
}

// Strip by strip, each padded into scratch first.
void run_strips(const Params& p, const Layout& l, const QProduct& product, const ConvRowsOf<uint8_t>& rows,
                int64_t images, KernelContext& ctx, char* scratch) {
  const ConvGeometry& g = p.g;
  const int64_t threads = ctx.pool ? ctx.threads : 1;
  int64_t height = l.strip_rows;
  if (threads > 1) height = std::min(height, (rows.out_h * images + 4 * threads - 1) / (4 * threads));
  const int64_t strips = (rows.out_h + height - 1) / height;
  parallel_items(ctx, images * strips, threads, [&](int64_t worker, int64_t item) {
    char* const own = scratch + static_cast<size_t>(worker) * (l.strip + l.product);
    const int64_t image = item / strips, begin = item % strips * height, end = std::min(rows.out_h, begin + height);
    uint8_t* const padded = reinterpret_cast<uint8_t*>(own);
    copy_padded(p, rows, rows.x + image * rows.image, l.padded_w, begin * g.stride_h - g.pad_top,
                strip_lines(g, end - begin), padded);
    ConvRowsOf<uint8_t> r = rows;
    r.x = padded;
    r.h = strip_lines(g, end - begin);
    r.w = l.padded_w;
    r.line = l.padded_w * r.pixel;
    r.out_h = end - begin;
    r.pad_top = r.pad_left = 0;
    QProduct q = product;
    q.m = r.out_h * r.out_w;
    q.user = &r;
    skip_rows(&q.finish, (image * rows.out_h + begin) * r.out_w);
    q_product_block(q, 0, q.m, 0, q.n / kQPanel + (q.n % kQPanel != 0), own + l.strip);
  });
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const ConvGeometry& g = p.g;
  const Tensor &x = in[0], &y = out[0];
  if (has_no_elements(y)) return MRT_OK;
  const QFinishCall finish = q_finish_call(p.output, in, n_in, y, g.out_channels);
  if (!p.table) {
    qconv2d_reference(g, taps_of(g), p.x_zero, finish, x, in[1].as<const char>(), y);
    return MRT_OK;
  }
  const Layout l = layout_of(p, x);
  char* const scratch = static_cast<char*>(ctx.scratch);
  std::memset(scratch, static_cast<int>(p.x_zero), l.zeros);
  const ConvRowsOf<uint8_t> rows = rows_of(g, x, y, reinterpret_cast<const uint8_t*>(scratch));
  QProduct q = product_of(p, in, finish, y);
  const bool plain = g.taps() == 1 && g.stride_h == 1 && g.stride_w == 1 && g.pad_top + g.pad_left == 0 &&
                     g.pad_bottom + g.pad_right == 0;
  if (plain) {
    q.a = rows.x;
  } else {
    q.rows_of = conv_rows<uint8_t>;
    q.user = &rows;
  }
  if (access_of(g).copied) {
    run_strips(p, l, q, rows, x.shape[0], ctx, scratch + l.zeros);
  } else {
    run_q_product(q, ctx, scratch + l.zeros);
  }
  return MRT_OK;
}

// ---- packing ----

struct Packing {
  ConvGeometry g;
  int64_t a_max;
};

Status decode_packing(const char* packing, const Tensor& weight, const Attrs& attrs, Packing* p, size_t* bytes) {
  MRT_TRY(check_packing_name(kContract, packing, kPacking));
  MRT_TRY(decode_geometry(attrs, &p->g));
  p->a_max = 255;
  MRT_TRY(attr_int(attrs, kContract, "a_max", 0, 255, &p->a_max));
  MRT_TRY(check_s8(kContract, "weight", weight, 4));
  MRT_TRY(check_conv_filter(kContract, p->g, weight, p->g.out_channels, p->g.group_in()));
  const int64_t size = packed_size(p->g);
  if (size < 0) return fail(MRT_ERROR_SHAPE, "%s: the packed weight is too large to address", kContract);
  *bytes = static_cast<size_t>(size);
  return Status();
}

Status packed_bytes(const char* packing, const Tensor& weight, const Attrs& attrs, size_t* out) {
  Packing p;
  return decode_packing(packing, weight, attrs, &p, out);
}

// OIHW as products of taps: a position of the filter, or a line of it, in which k runs over pixels and channels.
Status pack(const char* packing, const Tensor& weight, const Attrs& attrs, void* out) {
  Packing p;
  size_t bytes = 0;
  MRT_TRY(decode_packing(packing, weight, attrs, &p, &bytes));
  const ConvGeometry& g = p.g;
  const QPanelLayout l = q_panel_layout(taps_of(g), depth_of(g));
  const int64_t group_bytes = q_packed_bytes(l.taps, l.kc, g.group_out());
  const int64_t filter = g.group_in() * g.taps();
  // k of a tap to its place in a filter [I][kh][kw]; taps are g.taps() / l.taps positions apart.
  const auto at = [&](int64_t tap, int64_t k) {
    return k % g.group_in() * g.taps() + tap * (g.taps() / l.taps) + k / g.group_in();
  };
  for (int64_t group = 0; group < g.groups; ++group) {
    const int8_t* const src = weight.as<const int8_t>() + group * g.group_out() * filter;
    q_pack_panels(QSource{src, filter, g.group_out(), p.a_max}, l, at, static_cast<char*>(out) + group * group_bytes);
  }
  return Status();
}

const char* kernel_name(const void* params, const Tensor*, int, const Tensor*, int) {
  const Params& p = *static_cast<const Params*>(params);
  return p.table ? p.table->conv2d_name : "conv2d_u8s8_reference";
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  return conv_flops(p.g, out[0].shape[0] * out[0].shape[1] * out[0].shape[2]);
}

const char* const kPackings[] = {kPacking, nullptr};
const char* const kKernels[] = {
#if defined(MRT_KERNELS_AVX2)
    "conv2d_u8s8_4x16_avx2",
#endif
    "conv2d_u8s8_4x16_scalar", nullptr};

}  // namespace

extern const Operator kConv2dU8S8Operator = {kContract,   kPackings, kKernels,    sizeof(Params), prepare,
                                             check,       scratch,   run,         packed_bytes,   pack,
                                             kernel_name, flops,     {3, 5, 1, 1}};

}  // namespace mrt
