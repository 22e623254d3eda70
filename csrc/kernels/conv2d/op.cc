// conv2d_f32: a convolution over NHWC as a matrix product whose rows are read where they lie (implicit GEMM).
//
// The idea of row pointers instead of a copy of the input is M. Dukhan's "The Indirect Convolution Algorithm" (2019);
// here the pointers are made for one block of rows at a time, so that they stay in cache and need no memory of their
// own.
#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "kernels/checks.h"
#include "kernels/conv2d/geometry.h"
#include "kernels/conv2d/reference.h"
#include "kernels/conv2d/rows.h"
#include "kernels/gemm/blocked.h"
#include "kernels/gemm/pack.h"

namespace mrt {
namespace {

constexpr const char* kName = "conv2d_f32";

constexpr Operand kInputs[] = {{"x", kF32, 4, kBatched},
                               {"w", kF32, 4, kPacked},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32, 4, kOptional | kResidual | kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, 4}};
constexpr Contract kContract = {kName,       "conv2d_f32_nr16_v1", kInputs,       kOutputs, kConvAttributes,
                                kConvGroups, kEpilogueAttributes,  kBlockingHints};

struct Params {
  const TileTable* table;  // null: the reference
  const EpilogueTable* epilogue_table;
  Epilogue epilogue;
  Blocking blocking;
  ConvGeometry g;
};

// How the input is read: taps of one pixel each, or whole lines of the filter, over the image as it is or a padded
// copy.
struct Access {
  bool lines;   // a tap is kernel_w pixels
  bool copied;  // from an image padded into scratch
};

// A tap of few channels costs more in pointers than in arithmetic: below this many floats lines are worth a copy.
constexpr int64_t kFewChannels = 16;

Access access_of(const ConvGeometry& g) {
  const bool contiguous = g.groups == 1 && g.dilation_w == 1 && g.kernel_w > 1;
  if (contiguous && g.pad_left == 0 && g.pad_right == 0) return {true, false};
  if (contiguous && g.in_channels < kFewChannels) return {true, true};
  return {false, false};
}

// Lines of the input that so many rows of the output see.
int64_t strip_lines(const ConvGeometry& g, int64_t rows) {
  return (rows - 1) * g.stride_h + (g.kernel_h - 1) * g.dilation_h + 1;
}

// Scratch: zeros for one tap, then for each thread a padded strip of the input and row pointers.
struct Layout {
  size_t zeros, strip, pointers;
  int64_t padded_w;
  int64_t strip_rows;  // of the output
};

// A strip is copied just before it is read: it should still be in L2 (and most of it in L1) then.
constexpr int64_t kStripBytes = 96 << 10;
constexpr int64_t kMaxStripBytes = int64_t{1} << 40;

Layout layout_of(const Params& p, const Tensor& x) {
  const ConvGeometry& g = p.g;
  const Access access = access_of(g);
  const int64_t tap = (access.lines ? g.kernel_w : 1) * g.in_channels;  // every group reads its own part of it
  Layout l{};
  l.zeros = align64(static_cast<size_t>(tap) * sizeof(float));
  l.padded_w = x.shape[2] + g.pad_left + g.pad_right;
  if (access.copied) {
    const int64_t line = std::max<int64_t>(1, l.padded_w * g.in_channels) * 4, more = strip_lines(g, 1);
    l.strip_rows = std::max<int64_t>(1, (kStripBytes / line - more) / g.stride_h + 1);
    l.strip = align64(static_cast<size_t>(strip_lines(g, l.strip_rows) * line));
  }
  l.pointers = product_scratch(p.table->mr, access.lines ? g.kernel_h : g.taps(),
                               access.lines ? g.kernel_w * g.in_channels : g.group_in(), p.blocking);
  return l;
}

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(decode_conv(attrs, &p.g));
  MRT_TRY(decode_epilogue(attrs, &p.epilogue));
  p.table = kTile[isa];
  p.blocking = !p.table ? Blocking() : p.g.taps() == 1 ? p.table->blocking : p.table->taps_blocking;
  MRT_TRY(decode_blocking(attrs, &p.blocking));
  p.epilogue_table = kEpilogue[isa];
  return Status();
}

int64_t packed_size(const ConvGeometry& g) {
  return checked_mul(packed_panel_bytes(checked_mul(g.taps(), g.group_in()), g.group_out()), g.groups);
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_conv_images(kName, p.g, false, in[0], out[0]));
  MRT_TRY(check_packed(kName, in[1], packed_size(p.g)));
  const ConvGeometry& g = p.g;
  if (p.table && access_of(g).copied) {
    // One row of the output at the least, else kStripBytes: no product of these overflows.
    const int64_t line = checked_mul(in[0].shape[2] + g.pad_left + g.pad_right, g.in_channels * 4);
    if (checked_mul(line, strip_lines(g, 1)) < 0 || checked_mul(line, strip_lines(g, 1)) > kMaxStripBytes) {
      return fail(MRT_ERROR_SHAPE,
                  "%s: the padded lines that one row of the output sees take more than %" PRId64 " bytes", kName,
                  kMaxStripBytes);
    }
  }
  return Status();
}

size_t scratch(const void* params, const Tensor* in, int, const Tensor*, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  if (!p.table) return 0;
  const Layout l = layout_of(p, in[0]);
  return l.zeros + (l.strip + l.pointers) * static_cast<size_t>(threads);
}

// Lines [first, first + lines) of an image, padded to the left and right; lines outside of the image are zero.
void copy_padded(const ConvGeometry& g, const ConvRows& rows, const float* image, int64_t padded_w, int64_t first,
                 int64_t lines, float* out) {
  const size_t line = static_cast<size_t>(padded_w * g.in_channels), row = static_cast<size_t>(rows.line);
  const size_t left = static_cast<size_t>(g.pad_left * g.in_channels);
  for (int64_t i = first; i < first + lines; ++i, out += line) {
    if (i < 0 || i >= rows.h || row == 0) {
      std::memset(out, 0, line * sizeof(float));
      continue;
    }
    std::memset(out, 0, left * sizeof(float));
    std::memcpy(out + left, image + static_cast<size_t>(i) * row, row * sizeof(float));
    std::memset(out + left + row, 0, (line - left - row) * sizeof(float));
  }
}

// What part of the filter's positions along one axis lies inside of [0, in), over all outputs.
double inside(int64_t in, int64_t out, int64_t pad, int64_t kernel, int64_t stride, int64_t dilation) {
  int64_t sum = 0;
  for (int64_t k = 0; k < kernel; ++k) {
    const int64_t before = std::max<int64_t>(0, pad - k * dilation), end = in + pad - k * dilation;
    sum += std::max<int64_t>(0, std::min(out, ceil_div(std::max<int64_t>(0, end), stride)) - ceil_div(before, stride));
  }
  return static_cast<double>(sum) / static_cast<double>(out * kernel);
}

// Below this much of the filter inside of the image its positions are done one by one, so that each tile can leave out
// those that lie outside; it costs some 5 % to have the sums wait in y between them.
constexpr double kMostlyInside = 0.75;

// The product over all images; its rows of A are the caller's.
Product product_of(const Params& p, const Tensor* in, int n_in, const Tensor& y) {
  const ConvGeometry& g = p.g;
  const bool lines = access_of(g).lines;
  Product q{};
  q.table = p.table;
  q.epilogue_table = p.epilogue_table;
  q.epilogue = &p.epilogue;
  q.blocking = p.blocking;
  q.m = y.shape[0] * y.shape[1] * y.shape[2];
  q.n = g.group_out();
  q.taps = lines ? g.kernel_h : g.taps();
  q.kc = lines ? g.kernel_w * g.in_channels : g.group_in();
  q.groups = g.groups;
  q.group_a = g.group_in();
  q.lda = g.in_channels;
  if (!lines && g.dilation_h * g.dilation_w > 1 &&
      inside(in[0].shape[1], y.shape[1], g.pad_top, g.kernel_h, g.stride_h, g.dilation_h) *
              inside(in[0].shape[2], y.shape[2], g.pad_left, g.kernel_w, g.stride_w, g.dilation_w) <
          kMostlyInside) {
    q.blocking.depth = std::min(q.blocking.depth, std::max<int64_t>(1, q.kc));
  }
  q.row_bytes = std::min(q.taps * q.kc * g.groups, g.stride_h * g.stride_w * g.in_channels) * 4;
  q.w = in[1].as<const float>();
  q.c = y.as<float>();
  q.ldc = q.ldr = g.out_channels;
  q.bias = present(in, n_in, 2) ? in[2].as<const float>() : nullptr;
  q.residual = present(in, n_in, 3) ? in[3].as<const float>() : nullptr;
  return q;
}

// Strip by strip, each padded into scratch first.
void run_strips(const Params& p, const Layout& l, const Product& product, const ConvRows& rows, int64_t images,
                KernelContext& ctx, char* scratch) {
  const ConvGeometry& g = p.g;
  const int64_t threads = ctx.pool ? ctx.threads : 1;
  int64_t height = l.strip_rows;
  if (threads > 1) height = std::min(height, (rows.out_h * images + 4 * threads - 1) / (4 * threads));
  const int64_t strips = (rows.out_h + height - 1) / height;
  parallel_items(ctx, images * strips, threads, [&](int64_t worker, int64_t item) {
    char* const worker_scratch = scratch + static_cast<size_t>(worker) * (l.strip + l.pointers);
    const int64_t image = item / strips, begin = item % strips * height, end = std::min(rows.out_h, begin + height);
    float* const padded = reinterpret_cast<float*>(worker_scratch);
    copy_padded(g, rows, rows.x + image * rows.image, l.padded_w, begin * g.stride_h - g.pad_top,
                strip_lines(g, end - begin), padded);
    ConvRows r = rows;
    r.x = padded;
    r.h = strip_lines(g, end - begin);
    r.w = l.padded_w;
    r.line = l.padded_w * r.pixel;
    r.out_h = end - begin;
    r.pad_top = r.pad_left = 0;
    Product q = product;
    q.m = r.out_h * r.out_w;
    q.user = &r;
    q.watch = ctx.watch;
    const int64_t before = (image * rows.out_h + begin) * r.out_w;
    q.c += before * q.ldc;
    if (q.residual) q.residual += before * q.ldr;
    product_block(q, 0, q.m, 0, panels_of(q.n), worker_scratch + l.strip);
  });
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const ConvGeometry& g = p.g;
  const Tensor &x = in[0], &y = out[0];
  if (y.elements() == 0) return MRT_OK;
  if (!p.table) {
    conv2d_reference(g, p.epilogue, x, in[1].as<const float>(),
                     present(in, n_in, 2) ? in[2].as<const float>() : nullptr,
                     present(in, n_in, 3) ? in[3].as<const float>() : nullptr, y);
    return MRT_OK;
  }
  const Layout l = layout_of(p, x);
  char* const scratch = static_cast<char*>(ctx.scratch);
  float* const zeros = reinterpret_cast<float*>(scratch);
  std::memset(zeros, 0, l.zeros);
  ConvRows rows = conv_rows_of<float>(g, x, y, access_of(g).lines ? 1 : g.kernel_w);
  rows.zeros = zeros;
  Product q = product_of(p, in, n_in, y);
  const bool plain = g.taps() == 1 && g.stride_h == 1 && g.stride_w == 1 && g.pad_top + g.pad_left == 0 &&
                     g.pad_bottom + g.pad_right == 0;
  if (plain) {
    q.a = rows.x;
  } else {
    q.rows_of = conv_rows<float>;
    q.user = &rows;
    q.zeros = zeros;
  }
  if (access_of(g).copied) {
    run_strips(p, l, q, rows, x.shape[0], ctx, scratch + l.zeros);
  } else {
    run_product(q, ctx, scratch + l.zeros);
  }
  return MRT_OK;
}

// ---- packing ----

// OIHW to [groups][ceil(O / 16)][kh][kw][I][16].
Status pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  ConvGeometry g;
  MRT_TRY(decode_conv(attrs, &g));
  MRT_TRY(check_conv_filter(kName, g, weight, g.out_channels, g.group_in()));
  *bytes = packed_size(g);
  if (out == nullptr) return Status();
  const float* w = weight.as<const float>();
  float* to = static_cast<float*>(out);
  const int64_t o = g.group_out(), c = g.group_in(), taps = g.taps();
  for (int64_t group = 0; group < g.groups; ++group)
    for (int64_t panel = 0; panel < panels_of(o); ++panel)
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t i = 0; i < c; ++i)
          for (int64_t j = 0; j < kPanel; ++j) {
            const int64_t n = panel * kPanel + j;
            *to++ = n < o ? w[((group * o + n) * c + i) * taps + tap] : 0.0f;
          }
  return Status();
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  return conv_flops(p.g, out[0].shape[0] * out[0].shape[1] * out[0].shape[2]);
}

}  // namespace

const Operator kOperator_conv2d_f32 = {&kContract, kTile.rows, sizeof(Params), prepare, check,
                                       run,        scratch,    flops,          pack};

}  // namespace mrt
