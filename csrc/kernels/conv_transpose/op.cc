// conv_transpose2d_f32: the output is cut into phases, one for each remainder of its position by the stride. Pixels of
// a phase see the same positions of the filter, at neighbouring input pixels: each phase is a convolution of stride 1
// with a part of the filter, and no sum is scattered.
#include <algorithm>
#include <cstring>

#include "kernels/checks.h"
#include "kernels/conv2d/geometry.h"
#include "kernels/gemm/blocked.h"
#include "kernels/gemm/pack.h"
#include "kernels/gemm/reference.h"

namespace mrt {
namespace {

constexpr const char* kName = "conv_transpose2d_f32";

constexpr Operand kInputs[] = {{"x", kF32, 4, kBatched}, {"w", kF32, 4, kPacked}, {"bias", kF32, 1, kOptional | kBias}};
constexpr Operand kOutputs[] = {{"y", kF32, 4}};
constexpr Attribute kAttributes[] = {integers("output_padding", 2, 0, kMaxConvStep, 0)};
constexpr Contract kContract = {kName,       "conv_transpose2d_f32_v1", kInputs,    kOutputs, kConvAttributes,
                                kConvGroups, kActivationAttributes,     kAttributes};

struct Params {
  const TileTable* table;  // null: the reference
  const EpilogueTable* epilogue_table;
  Epilogue epilogue;
  ConvGeometry g;
};

// Positions k of a filter along one axis with k * dilation = phase (mod stride), in rising order, and how many lie in
// lower phases.
struct Phase {
  int64_t before, count;
};
Phase phase_of(int64_t kernel, int64_t stride, int64_t dilation, int64_t phase) {
  Phase p{0, 0};
  for (int64_t k = 0; k < kernel; ++k) {
    const int64_t r = k * dilation % stride;
    p.before += r < phase;
    p.count += r == phase;
  }
  return p;
}
int64_t first_position(int64_t kernel, int64_t stride, int64_t dilation, int64_t phase) {
  int64_t k = 0;
  while (k < kernel && k * dilation % stride != phase) ++k;
  return k;
}
// The position after k in the same phase: k + stride / gcd(stride, dilation).
int64_t next_position(int64_t k, int64_t stride, int64_t dilation) {
  int64_t a = stride, b = dilation;
  while (b != 0) {
    const int64_t t = a % b;
    a = b;
    b = t;
  }
  return k + stride / a;
}

// Packed: [groups][phase y][phase x][ceil(O / 16)][positions of the phase][I][16]. Floats before a phase, of one group.
int64_t phase_offset(const ConvGeometry& g, const Phase& y, const Phase& x) {
  return (y.before * g.kernel_w + y.count * x.before) * g.group_in() * kPanel * panels_of(g.group_out());
}

int64_t packed_size(const ConvGeometry& g) {
  return checked_mul(packed_panel_bytes(checked_mul(g.taps(), g.group_in()), g.group_out()), g.groups);
}

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(decode_conv(attrs, &p.g));
  MRT_TRY(decode_epilogue(attrs, &p.epilogue));
  p.table = kTile[isa];
  p.epilogue_table = kEpilogue[isa];
  return Status();
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_conv_images(kName, p.g, true, in[0], out[0]));
  return check_packed(kName, in[1], packed_size(p.g));
}

size_t zeros_bytes(const ConvGeometry& g) { return align64(static_cast<size_t>(g.group_in()) * sizeof(float)); }

size_t scratch(const void* params, const Tensor*, int, const Tensor*, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  if (!p.table) return 0;
  return zeros_bytes(p.g) + product_scratch(p.table->mr, p.g.taps(), p.g.group_in()) * static_cast<size_t>(threads);
}

// ---- one row of one phase ----

struct PhaseRows {
  const ConvGeometry* g;
  const float* x;  // of the image, at the group's first channel
  const float* zeros;
  int64_t h, w;
  int64_t oy;  // of the row
  int64_t ox;  // of the row's first pixel in this phase
  int64_t first_h, first_w, step_h, step_w;
  int64_t count_h, count_w;  // positions of the filter
};

// A Product::rows_of.
void phase_rows(const void* user, int64_t m0, int64_t rows, const float** out) {
  const PhaseRows& r = *static_cast<const PhaseRows*>(user);
  const ConvGeometry& g = *r.g;
  for (int64_t i = 0; i < r.count_h; ++i) {
    const int64_t y = r.oy + g.pad_top - (r.first_h + i * r.step_h) * g.dilation_h;  // a multiple of the stride
    const bool inside = y >= 0 && y / g.stride_h < r.h;
    const float* line = inside ? r.x + y / g.stride_h * r.w * g.in_channels : nullptr;
    for (int64_t j = 0; j < r.count_w; ++j) {
      const int64_t x = r.ox + g.pad_left - (r.first_w + j * r.step_w) * g.dilation_w;
      // Exact also where x is negative: x is a multiple of the stride.
      int64_t ix = x / g.stride_w + m0;
      for (int64_t m = 0; m < rows; ++m, ++ix) {
        *out++ = inside && ix >= 0 && ix < r.w ? line + ix * g.in_channels : r.zeros;
      }
    }
  }
}

struct Call {
  const Params* p;
  const Tensor *x, *y;
  const float *w, *bias, *zeros;
};

// Rows [begin, end) of the rows (of all images) whose position leaves `first` when divided by the stride.
void phase_block(const Call& c, int64_t first, int64_t rows, int64_t begin, int64_t end, char* scratch) {
  const ConvGeometry& g = c.p->g;
  const int64_t h = c.x->shape[1], w = c.x->shape[2], out_h = c.y->shape[1], out_w = c.y->shape[2];
  const int64_t o = g.group_out(), group_size = panels_of(o) * g.taps() * g.group_in() * kPanel;
  const int64_t phase_h = (first + g.pad_top) % g.stride_h;
  const Phase py = phase_of(g.kernel_h, g.stride_h, g.dilation_h, phase_h);
  PhaseRows r{};
  r.g = &g;
  r.zeros = c.zeros;
  r.h = h;
  r.w = w;
  r.first_h = first_position(g.kernel_h, g.stride_h, g.dilation_h, phase_h);
  r.step_h = next_position(0, g.stride_h, g.dilation_h);
  r.step_w = next_position(0, g.stride_w, g.dilation_w);
  r.count_h = py.count;
  Product product{};
  product.table = c.p->table;
  product.epilogue_table = c.p->epilogue_table;
  product.epilogue = &c.p->epilogue;
  product.n = o;
  product.rows_of = phase_rows;
  product.user = &r;
  product.ldc = g.stride_w * g.out_channels;
  for (int64_t ox = 0; ox < std::min(g.stride_w, out_w); ++ox) {
    const int64_t phase_w = (ox + g.pad_left) % g.stride_w;
    const Phase px = phase_of(g.kernel_w, g.stride_w, g.dilation_w, phase_w);
    r.ox = ox;
    r.first_w = first_position(g.kernel_w, g.stride_w, g.dilation_w, phase_w);
    r.count_w = px.count;
    product.m = (out_w - ox - 1) / g.stride_w + 1;
    const bool empty = py.count * px.count == 0;  // no position: the result is that of a sum of zero
    product.taps = empty ? 1 : py.count * px.count;
    product.kc = empty ? 0 : g.group_in();
    for (int64_t group = 0; group < g.groups; ++group) {
      product.w = c.w + group * group_size + phase_offset(g, py, px);
      product.bias = c.bias ? c.bias + group * o : nullptr;
      // Panels outside of rows: their weights stay in cache.
      for (int64_t panel = 0; panel < panels_of(o); ++panel) {
        for (int64_t row = begin; row < end; ++row) {
          const int64_t image = row / rows;
          r.oy = first + row % rows * g.stride_h;
          r.x = c.x->as<const float>() + image * h * w * g.in_channels + group * g.group_in();
          product.c = c.y->as<float>() + ((image * out_h + r.oy) * out_w + ox) * g.out_channels + group * o;
          product_block(product, 0, product.m, panel, panel + 1, scratch);
        }
      }
    }
  }
}

// ---- the reference: the scatter of the definition, read from the output's side ----

float packed_weight(const ConvGeometry& g, const float* w, int64_t group, int64_t i, int64_t o, int64_t kh,
                    int64_t kw) {
  const int64_t phase_h = kh * g.dilation_h % g.stride_h, phase_w = kw * g.dilation_w % g.stride_w;
  const Phase y = phase_of(g.kernel_h, g.stride_h, g.dilation_h, phase_h);
  const Phase x = phase_of(g.kernel_w, g.stride_w, g.dilation_w, phase_w);
  int64_t row = 0, column = 0;
  for (int64_t k = 0; k < kh; ++k) row += k * g.dilation_h % g.stride_h == phase_h;
  for (int64_t k = 0; k < kw; ++k) column += k * g.dilation_w % g.stride_w == phase_w;
  const int64_t group_size = panels_of(g.group_out()) * g.taps() * g.group_in() * kPanel;
  return panel_element(w + group * group_size + phase_offset(g, y, x), y.count * x.count * g.group_in(),
                       (row * x.count + column) * g.group_in() + i, o);
}

void reference(const Call& c) {
  const ConvGeometry& g = c.p->g;
  const int64_t h = c.x->shape[1], w = c.x->shape[2], in = g.group_in();
  int64_t index = 0;
  for (int64_t n = 0; n < c.y->shape[0]; ++n)
    for (int64_t oy = 0; oy < c.y->shape[1]; ++oy)
      for (int64_t ox = 0; ox < c.y->shape[2]; ++ox)
        for (int64_t channel = 0; channel < g.out_channels; ++channel, ++index) {
          const int64_t group = channel / g.group_out();
          double sum = 0.0;
          for (int64_t t = 0; t < g.taps(); ++t) {
            const int64_t kh = t / g.kernel_w, kw = t % g.kernel_w;
            const int64_t y = oy + g.pad_top - kh * g.dilation_h, x = ox + g.pad_left - kw * g.dilation_w;
            if (y < 0 || y % g.stride_h != 0 || y / g.stride_h >= h) continue;
            if (x < 0 || x % g.stride_w != 0 || x / g.stride_w >= w) continue;
            const float* pixel =
                c.x->as<const float>() + ((n * h + y / g.stride_h) * w + x / g.stride_w) * g.in_channels + group * in;
            for (int64_t i = 0; i < in; ++i) {
              const float weight = packed_weight(g, c.w, group, i, channel % g.group_out(), kh, kw);
              sum += static_cast<double>(pixel[i]) * static_cast<double>(weight);
            }
          }
          c.y->as<float>()[index] =
              epilogue_reference(c.p->epilogue, sum, c.bias ? c.bias + channel : nullptr, nullptr);
        }
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const ConvGeometry& g = p.g;
  const Tensor& y = out[0];
  if (y.elements() == 0) return MRT_OK;
  float* const zeros = static_cast<float*>(ctx.scratch);
  const Call call{&p,   &in[0], &y, in[1].as<const float>(), present(in, n_in, 2) ? in[2].as<const float>() : nullptr,
                  zeros};
  if (!p.table) {
    reference(call);
    return MRT_OK;
  }
  std::memset(zeros, 0, zeros_bytes(g));
  char* const pointers = static_cast<char*>(ctx.scratch) + zeros_bytes(g);
  const size_t per_thread = product_scratch(p.table->mr, g.taps(), g.group_in());
  const int64_t phases = std::min(g.stride_h, y.shape[1]), images = y.shape[0];
  const double work = element_count(y) * static_cast<double>(g.taps() * g.group_in());
  const int64_t wanted = std::max<int64_t>(ctx.threads > 1 ? 4 * int64_t{ctx.threads} : 1, pieces_to_leave(ctx, work));
  const int64_t pieces = std::max<int64_t>(1, wanted / phases);
  parallel_items(ctx, phases * pieces, ctx.threads, [&](int64_t worker, int64_t item) {
    const int64_t first = item / pieces, piece = item % pieces;
    const int64_t rows = (y.shape[1] - first - 1) / g.stride_h + 1, all = rows * images;
    phase_block(call, first, rows, all * piece / pieces, all * (piece + 1) / pieces,
                pointers + static_cast<size_t>(worker) * per_thread);
  });
  return MRT_OK;
}

// ---- packing ----

// One phase of one group; returns where the next begins.
float* pack_phase(const ConvGeometry& g, const float* w, int64_t group, int64_t phase_h, int64_t phase_w, float* to) {
  const int64_t in = g.group_in(), o = g.group_out();
  const int64_t step_h = next_position(0, g.stride_h, g.dilation_h);
  const int64_t step_w = next_position(0, g.stride_w, g.dilation_w);
  const int64_t first_h = first_position(g.kernel_h, g.stride_h, g.dilation_h, phase_h);
  const int64_t first_w = first_position(g.kernel_w, g.stride_w, g.dilation_w, phase_w);
  for (int64_t panel = 0; panel < panels_of(o); ++panel)
    for (int64_t kh = first_h; kh < g.kernel_h; kh += step_h)
      for (int64_t kw = first_w; kw < g.kernel_w; kw += step_w)
        for (int64_t i = 0; i < in; ++i)
          for (int64_t j = 0; j < kPanel; ++j) {
            const int64_t n = panel * kPanel + j;
            *to++ = n < o ? w[(((group * in + i) * o + n) * g.kernel_h + kh) * g.kernel_w + kw] : 0.0f;
          }
  return to;
}

Status pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  ConvGeometry g;
  MRT_TRY(decode_conv(attrs, &g));
  MRT_TRY(check_conv_filter(kName, g, weight, g.in_channels, g.group_out()));
  *bytes = packed_size(g);
  if (out == nullptr) return Status();
  float* to = static_cast<float*>(out);
  for (int64_t group = 0; group < g.groups; ++group)
    for (int64_t y = 0; y < g.stride_h; ++y) {
      if (phase_of(g.kernel_h, g.stride_h, g.dilation_h, y).count == 0) continue;
      for (int64_t x = 0; x < g.stride_w; ++x) to = pack_phase(g, weight.as<const float>(), group, y, x, to);
    }
  return Status();
}

double flops(const void* params, const Tensor* in, int, const Tensor*, int) {
  const Params& p = *static_cast<const Params*>(params);
  return conv_flops(p.g, in[0].shape[0] * in[0].shape[1] * in[0].shape[2]);
}

}  // namespace

const Operator kOperator_conv_transpose2d_f32 = {&kContract, kTile.rows, sizeof(Params), prepare, check,
                                                 run,        scratch,    flops,          pack};

}  // namespace mrt
