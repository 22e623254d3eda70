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

constexpr const char* kContract = "conv2d_f32";

struct Params {
  const TileTable* table;  // null: the reference
  const EpilogueTable* epilogue_table;
  Epilogue epilogue;
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

// Scratch: zeros for one tap, the padded image, then the pointers of each thread.
struct Layout {
  size_t zeros, image, pointers, per_thread;
  int64_t padded_h, padded_w;
};

Layout layout_of(const Params& p, const Tensor& x) {
  const ConvGeometry& g = p.g;
  const Access access = access_of(g);
  const int64_t tap = access.lines ? g.kernel_w * g.in_channels : g.group_in();
  Layout l{};
  l.zeros = align64(static_cast<size_t>(tap) * sizeof(float));
  l.padded_h = x.shape[1] + g.pad_top + g.pad_bottom;
  l.padded_w = x.shape[2] + g.pad_left + g.pad_right;
  l.image = access.copied ? align64(static_cast<size_t>(l.padded_h * l.padded_w * g.in_channels) * sizeof(float)) : 0;
  l.per_thread = product_scratch(p.table->mr, access.lines ? g.kernel_h : g.taps());
  return l;
}

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(decode_conv(attrs, kContract, &p.g));
  MRT_TRY(decode_epilogue(attrs, kContract, true, &p.epilogue));
  p.table = tile_table(isa);
  p.epilogue_table = epilogue_table(isa);
  return Status();
}

int64_t packed_size(const ConvGeometry& g) {
  return checked_mul(packed_panel_bytes(checked_mul(g.taps(), g.group_in()), g.group_out()), g.groups);
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_conv(kContract, p.g, false, in, n_in, 4, out, n_out));
  MRT_TRY(check_packed(kContract, in[1], packed_size(p.g)));
  if (p.table && access_of(p.g).copied) {
    const Layout l = layout_of(p, in[0]);
    if (checked_mul(checked_mul(l.padded_h, l.padded_w), p.g.in_channels * 4) < 0) {
      return fail(MRT_ERROR_SHAPE, "%s: the padded input is too large to address", kContract);
    }
  }
  return Status();
}

size_t scratch(const void* params, const Tensor* in, int, const Tensor*, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  if (!p.table) return 0;
  const Layout l = layout_of(p, in[0]);
  return l.zeros + l.image + l.per_thread * static_cast<size_t>(threads);
}

void copy_padded(const ConvGeometry& g, const Layout& l, const float* image, int64_t h, int64_t w, float* out,
                 KernelContext& ctx) {
  const size_t line = static_cast<size_t>(l.padded_w * g.in_channels), row = static_cast<size_t>(w * g.in_channels);
  const size_t left = static_cast<size_t>(g.pad_left * g.in_channels);
  parallel_ranges(ctx, l.padded_h, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* to = out + static_cast<size_t>(i) * line;
      const int64_t from = i - g.pad_top;
      if (from < 0 || from >= h) {
        std::memset(to, 0, line * sizeof(float));
        continue;
      }
      std::memset(to, 0, left * sizeof(float));
      if (row > 0) std::memcpy(to + left, image + static_cast<size_t>(from) * row, row * sizeof(float));
      std::memset(to + left + row, 0, (line - left - row) * sizeof(float));
    }
  });
}

void run_groups(const ConvGeometry& g, Product product, ConvRows rows, KernelContext& ctx, char* pointers) {
  const int64_t o = g.group_out(), size = panels_of(o) * g.taps() * g.group_in() * kPanel;
  const size_t per_thread = product_scratch(product.table->mr, product.taps);
  const Product first = product;
  const auto one = [&](int64_t group, bool whole, void* scratch) {
    Product q = first;
    ConvRows r = rows;
    r.x += group * g.group_in();
    q.a = r.x;
    q.user = &r;
    q.w += group * size;
    q.c += group * o;
    if (q.bias) q.bias += group * o;
    if (q.residual) q.residual += group * o;
    if (whole) {
      product_block(q, 0, q.m, 0, panels_of(q.n), scratch);
    } else {
      run_product(q, ctx, scratch);
    }
  };
  if (g.groups >= 2 * static_cast<int64_t>(ctx.threads) && ctx.threads > 1) {
    return parallel_items(ctx, g.groups, ctx.threads, [&](int64_t worker, int64_t group) {
      one(group, true, pointers + static_cast<size_t>(worker) * per_thread);
    });
  }
  for (int64_t group = 0; group < g.groups; ++group) one(group, false, pointers);
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const ConvGeometry& g = p.g;
  const Tensor &x = in[0], &y = out[0];
  const float* bias = present(in, n_in, 2) ? in[2].as<const float>() : nullptr;
  const float* residual = present(in, n_in, 3) ? in[3].as<const float>() : nullptr;
  if (y.elements() == 0) return MRT_OK;
  if (!p.table) {
    conv2d_reference(g, p.epilogue, x, in[1].as<const float>(), bias, residual, y);
    return MRT_OK;
  }
  const Access access = access_of(g);
  const Layout l = layout_of(p, x);
  char* const scratch = static_cast<char*>(ctx.scratch);
  float* const zeros = reinterpret_cast<float*>(scratch);
  float* const padded = reinterpret_cast<float*>(scratch + l.zeros);
  char* const pointers = scratch + l.zeros + l.image;
  std::memset(zeros, 0, l.zeros);

  const int64_t h = x.shape[1], w = x.shape[2], images = access.copied ? x.shape[0] : 1;
  const int64_t positions = y.shape[1] * y.shape[2];
  Product product{};
  product.table = p.table;
  product.epilogue_table = p.epilogue_table;
  product.epilogue = &p.epilogue;
  product.m = access.copied ? positions : x.shape[0] * positions;
  product.n = g.group_out();
  product.taps = access.lines ? g.kernel_h : g.taps();
  product.kc = access.lines ? g.kernel_w * g.in_channels : g.group_in();
  product.rows_of = conv_rows;
  product.lda = g.in_channels;
  product.row_bytes = std::min(product.taps * product.kc, g.stride_h * g.stride_w * g.group_in()) * 4;
  product.w = in[1].as<const float>();
  product.ldc = product.ldr = g.out_channels;
  const bool plain = g.taps() == 1 && g.stride_h == 1 && g.stride_w == 1 && g.pad_top + g.pad_left == 0 &&
                     g.pad_bottom + g.pad_right == 0;
  if (plain) product.rows_of = nullptr;

  ConvRows rows{x.as<const float>(),
                zeros,
                h,
                w,
                y.shape[1],
                y.shape[2],
                g.pad_top,
                g.pad_left,
                g.stride_h,
                g.stride_w,
                g.dilation_h,
                g.dilation_w,
                g.kernel_h,
                access.lines ? 1 : g.kernel_w,
                g.in_channels,
                w * g.in_channels,
                h * w * g.in_channels};
  for (int64_t image = 0; image < images; ++image) {
    if (access.copied) {
      copy_padded(g, l, x.as<const float>() + image * h * w * g.in_channels, h, w, padded, ctx);
      rows.x = padded;
      rows.h = l.padded_h;
      rows.w = l.padded_w;
      rows.line = l.padded_w * g.in_channels;
      rows.pad_top = rows.pad_left = 0;
    }
    const int64_t offset = image * positions * g.out_channels;
    product.c = y.as<float>() + offset;
    product.bias = bias;
    product.residual = residual ? residual + offset : nullptr;
    run_groups(g, product, rows, ctx, pointers);
  }
  return MRT_OK;
}

// ---- packing ----

Status decode_packing(const char* packing, const Tensor& weight, const Attrs& attrs, ConvGeometry* g, size_t* bytes) {
  MRT_TRY(check_packing_name(kContract, packing, "conv2d_f32_nr16_v1"));
  MRT_TRY(decode_conv(attrs, kContract, g));
  MRT_TRY(check_conv_weight(kContract, *g, weight, g->out_channels, g->group_in()));
  const int64_t size = packed_size(*g);
  if (size < 0) return fail(MRT_ERROR_SHAPE, "%s: the packed weight is too large to address", kContract);
  *bytes = static_cast<size_t>(size);
  return Status();
}

Status packed_bytes(const char* packing, const Tensor& weight, const Attrs& attrs, size_t* out) {
  ConvGeometry g;
  return decode_packing(packing, weight, attrs, &g, out);
}

// OIHW to [groups][ceil(O / 16)][kh][kw][I][16].
Status pack(const char* packing, const Tensor& weight, const Attrs& attrs, void* out) {
  ConvGeometry g;
  size_t bytes = 0;
  MRT_TRY(decode_packing(packing, weight, attrs, &g, &bytes));
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

const char* kernel_name(const void* params, const Tensor*, int, const Tensor*, int) {
  const Params& p = *static_cast<const Params*>(params);
  return p.table ? p.table->conv2d_name : "conv2d_f32_reference";
}

double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  return conv_flops(p.g, out[0].shape[0] * out[0].shape[1] * out[0].shape[2]);
}

const char* const kPackings[] = {"conv2d_f32_nr16_v1", nullptr};
const char* const kKernels[] = {
#if defined(MRT_KERNELS_AVX2)
    "conv2d_f32_6x16_avx2",
#endif
    "conv2d_f32_3x16_scalar", nullptr};

}  // namespace

extern const Operator kConv2dF32Operator = {kContract, kPackings, kKernels,     sizeof(Params), prepare,     check,
                                            scratch,   run,       packed_bytes, pack,           kernel_name, flops};

}  // namespace mrt
