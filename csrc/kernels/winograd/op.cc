// conv2d_winograd_f32: a 3 x 3 convolution of stride 1 over NHWC by F(2 x 2, 3 x 3) or F(4 x 4, 3 x 3).
//
// Tiles are taken in blocks: the inputs of a block are transformed, one matrix product is made for each position of
// the transformed tile, and the outputs are transformed back, all while the block is in cache. Multiplications drop to
// 4/9 or 1/4; what is paid are two transforms, larger weights, and rounding (winograd_kernels.h).
#include <algorithm>
#include <cinttypes>
#include <cstring>

#include "kernels/checks.h"
#include "kernels/conv2d/geometry.h"
#include "kernels/epilogue/epilogue.h"
#include "kernels/gemm/blocked.h"
#include "kernels/gemm/pack.h"
#include "kernels/winograd/exact.h"
#include "kernels/winograd/reference.h"
#include "kernels/winograd/winograd_kernels.h"

namespace mrt {
namespace {

constexpr const char* kName = "conv2d_winograd_f32";

constexpr Operand kInputs[] = {{"x", kF32, 4, kBatched},
                               {"w", kF32, 4, kPacked},
                               {"bias", kF32, 1, kOptional | kBias},
                               {"residual", kF32, 4, kOptional | kResidual | kBatched}};
constexpr Operand kOutputs[] = {{"y", kF32, 4}};
constexpr Attribute kAttributes[] = {integer("tile", 2, 4, 4).in_steps_of(2), hint("block_kib", 64, 16384)};
constexpr Contract kContract = {kName,       "conv2d_winograd_f32_nr16_v1", kInputs,    kOutputs, kConvAttributes,
                                kConvGroups, kEpilogueAttributes,           kAttributes};

// Measured on Zen 3: a block's inputs and products should not be much larger than L2, but its weights, which every
// block reads anew, want many tiles to be used for. A step's hint may say otherwise: "block_kib=320".
constexpr int64_t kBlockKib = 640;

struct Params {
  const WinogradKernel* kernel;  // null: the reference
  const TileTable* table;
  const EpilogueTable* epilogue_table;
  Epilogue epilogue;
  ConvGeometry g;
  int64_t m;            // outputs along a side of a tile
  int64_t block_bytes;  // of inputs and products of a block of tiles

  int64_t side() const { return m + 2; }
  int64_t positions() const { return side() * side(); }
};

Status decode(const Attrs& attrs, ConvGeometry* g, int64_t* m) {
  MRT_TRY(decode_conv(attrs, g));
  MRT_TRY(attr_int(attrs, "tile", m));
  const bool plain = g->stride_h == 1 && g->stride_w == 1 && g->dilation_h == 1 && g->dilation_w == 1 && g->groups == 1;
  if (!plain || g->kernel_h != 3 || g->kernel_w != 3) {
    return fail(MRT_ERROR_INVALID_ARGUMENT,
                "%s: expected a kernel of 3 x 3 with stride 1, dilation 1 and one group; use conv2d_f32 for others",
                kName);
  }
  return Status();
}

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  MRT_TRY(decode(attrs, &p.g, &p.m));
  MRT_TRY(decode_epilogue(attrs, &p.epilogue));
  int64_t block_kib = kBlockKib;
  MRT_TRY(hint_int(attrs, "block_kib", &block_kib));
  p.block_bytes = block_kib << 10;
  p.kernel = kWinogradF32[isa];
  p.table = kTile[isa];
  p.epilogue_table = kEpilogue[isa];
  return Status();
}

int64_t packed_size(const ConvGeometry& g, int64_t m) {
  return checked_mul(packed_panel_bytes(g.in_channels, g.out_channels), (m + 2) * (m + 2));
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  MRT_TRY(check_conv_images(kName, p.g, false, in[0], out[0]));
  return check_packed(kName, in[1], packed_size(p.g, p.m));
}

// ---- blocks of tiles ----

// Where a block's data lie in scratch, in floats: positions a little more than a block apart, so that writing one tile
// to all of them does not fall on the same lines of a cache.
struct Block {
  int64_t tiles;                  // in the largest block
  int64_t input_row, output_row;  // from one tile to the next
  int64_t input_position, output_position;
  size_t bytes() const { return products + align64(static_cast<size_t>(positions * output_position) * sizeof(float)); }
  size_t products;  // bytes to the products
  int64_t positions;
};

constexpr int64_t kFewestTiles = 24;

Block block_of(const Params& p, int64_t tiles) {
  Block b{};
  b.positions = p.positions();
  b.input_row = (p.g.in_channels + 7) / 8 * 8;
  b.output_row = (p.g.out_channels + 7) / 8 * 8;
  const int64_t tile_bytes = b.positions * (b.input_row + b.output_row) * static_cast<int64_t>(sizeof(float));
  const int64_t max_tiles = std::max(kFewestTiles, p.block_bytes / std::max<int64_t>(1, tile_bytes));
  const int64_t blocks = std::max<int64_t>(1, (tiles + max_tiles - 1) / max_tiles);
  b.tiles = (tiles + blocks - 1) / blocks;
  b.input_position = b.tiles * b.input_row + 16;
  b.output_position = b.tiles * b.output_row + 16;
  b.products = align64(static_cast<size_t>(b.positions * b.input_position) * sizeof(float));
  return b;
}

struct Image {
  const float* x;
  const float* zeros;  // in_channels of them
  const float* bias;
  const float* residual;
  float* y;
  int64_t h, w, out_h, out_w;
  int64_t tiles_h, tiles_w, tiles;
};

Image image_of(const Params& p, const Tensor* in, int n_in, const Tensor& y) {
  Image i{};
  i.x = in[0].as<const float>();
  i.bias = present(in, n_in, 2) ? in[2].as<const float>() : nullptr;
  i.residual = present(in, n_in, 3) ? in[3].as<const float>() : nullptr;
  i.y = y.as<float>();
  i.h = in[0].shape[1];
  i.w = in[0].shape[2];
  i.out_h = y.shape[1];
  i.out_w = y.shape[2];
  i.tiles_h = (i.out_h + p.m - 1) / p.m;
  i.tiles_w = (i.out_w + p.m - 1) / p.m;
  i.tiles = y.shape[0] * i.tiles_h * i.tiles_w;
  return i;
}

struct TilePlace {
  int64_t n, row, column;  // image, and the first output
};
TilePlace place_of(const Params& p, const Image& image, int64_t tile) {
  const int64_t column = tile % image.tiles_w, row = tile / image.tiles_w % image.tiles_h;
  return {tile / image.tiles_w / image.tiles_h, row * p.m, column * p.m};
}

void transform_inputs(const Params& p, const Image& image, const Block& b, int64_t first, int64_t begin, int64_t end,
                      float* out) {
  const int64_t side = p.side(), channels = p.g.in_channels;
  const float* pixels[kMaxPosition * kMaxPosition];
  for (int64_t t = begin; t < end; ++t) {
    const TilePlace at = place_of(p, image, first + t);
    const int64_t top = at.row - p.g.pad_top, left = at.column - p.g.pad_left;
    for (int64_t i = 0; i < side; ++i) {
      const int64_t row = top + i;
      const bool inside = row >= 0 && row < image.h;
      const float* const line = inside ? image.x + (at.n * image.h + row) * image.w * channels : nullptr;
      for (int64_t j = 0; j < side; ++j) {
        const int64_t column = left + j;
        pixels[i * side + j] = inside && column >= 0 && column < image.w ? line + column * channels : image.zeros;
      }
    }
    p.kernel->input[p.m / 4](pixels, channels, out + t * b.input_row, b.input_position);
  }
}

// Positions [begin, end) of the products of `tiles` tiles.
void multiply(const Params& p, const Block& b, const float* w, int64_t tiles, int64_t begin, int64_t end,
              const float* inputs, float* products, void* pointers, Watch* watch) {
  const ConvGeometry& g = p.g;
  const Epilogue none{Act::none, false, 0, 0, -__builtin_inff(), __builtin_inff()};
  const int64_t panels = panels_of(g.out_channels), position = panels * kPanel * g.in_channels;
  for (int64_t i = begin; i < end; ++i) {
    Product q{};
    q.table = p.table;
    q.epilogue_table = p.epilogue_table;
    q.epilogue = &none;
    q.m = tiles;
    q.n = g.out_channels;
    q.taps = 1;
    q.kc = g.in_channels;
    q.a = inputs + i * b.input_position;
    q.lda = b.input_row;
    q.w = w + i * position;
    q.c = products + i * b.output_position;
    q.ldc = b.output_row;
    q.watch = watch;
    product_block(q, 0, tiles, 0, panels, pointers);
  }
}

void transform_outputs(const Params& p, const Image& image, const Block& b, const float* w, int64_t first,
                       int64_t begin, int64_t end, const float* products) {
  const Epilogue& e = p.epilogue;
  const bool after_tile = !e.clamp_only();  // the activation runs over the finished tile
  WinogradOutput call{};
  call.position = b.output_position;
  call.channels = p.g.out_channels;
  call.pixel = p.g.out_channels;
  call.line = image.out_w * call.pixel;
  call.bias = image.bias;
  call.lo = e.lo;
  call.hi = e.hi;
  call.residual_after = e.residual_after;
  for (int64_t t = begin; t < end; ++t) {
    const TilePlace at = place_of(p, image, first + t);
    const int64_t offset = ((at.n * image.out_h + at.row) * image.out_w + at.column) * call.pixel;
    const float* const residual = image.residual ? image.residual + offset : nullptr;
    call.products = products + t * b.output_row;
    call.rows = std::min(p.m, image.out_h - at.row);
    call.columns = std::min(p.m, image.out_w - at.column);
    call.y = image.y + offset;
    call.residual = after_tile && e.residual_after ? nullptr : residual;
    if (!p.kernel->output[p.m / 4](call)) {
      const float* const x = image.x + at.n * image.h * image.w * p.g.in_channels;
      winograd_exact_tile({&p.g, &e, p.m, w, x, image.h, image.w, at.row, at.column, call.rows, call.columns,
                           image.bias, residual, call.y, call.line, call.pixel});
      continue;
    }
    if (!after_tile) continue;
    for (int64_t i = 0; i < call.rows; ++i) {
      p.epilogue_table->apply(e, call.y + i * call.line, call.pixel, call.columns, call.channels,
                              e.residual_after && residual ? residual + i * call.line : nullptr, call.pixel);
    }
  }
}

// ---- scratch: zeros, row pointers for each worker, then blocks ----

struct Layout {
  size_t zeros, pointers;
  Block block;
  int64_t blocks;
};

Layout layout_of(const Params& p, const Tensor& y) {
  const int64_t tiles = y.shape[0] * ((y.shape[1] + p.m - 1) / p.m) * ((y.shape[2] + p.m - 1) / p.m);
  Layout l{};
  l.zeros = align64(static_cast<size_t>(p.g.in_channels) * sizeof(float));
  l.pointers = product_scratch(p.table->mr, 1, p.g.in_channels);
  l.block = block_of(p, tiles);
  l.blocks = tiles == 0 ? 0 : (tiles + l.block.tiles - 1) / l.block.tiles;
  return l;
}

// Many blocks are shared out whole, each thread's in its own scratch; few are worked on together, step by step.
bool shares_blocks(const Layout& l, int64_t threads) { return l.blocks >= 3 * threads; }

size_t scratch(const void* params, const Tensor*, int, const Tensor* out, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  if (!p.kernel || has_no_elements(out[0])) return 0;
  const Layout l = layout_of(p, out[0]);
  const size_t blocks = shares_blocks(l, threads) ? static_cast<size_t>(threads) : 1;
  return l.zeros + l.pointers * static_cast<size_t>(threads) + l.block.bytes() * blocks;
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const Tensor& y = out[0];
  if (has_no_elements(y)) return MRT_OK;
  const float* const w = in[1].as<const float>();
  if (!p.kernel) {
    winograd_reference(p.g, p.m, p.epilogue, in[0], w, present(in, n_in, 2) ? in[2].as<const float>() : nullptr,
                       present(in, n_in, 3) ? in[3].as<const float>() : nullptr, y);
    return MRT_OK;
  }
  const Layout l = layout_of(p, y);
  const Block& b = l.block;
  char* const base = static_cast<char*>(ctx.scratch);
  std::memset(base, 0, l.zeros);
  Image image = image_of(p, in, n_in, y);
  image.zeros = reinterpret_cast<const float*>(base);
  char* const pointers = base + l.zeros;
  char* const blocks = pointers + l.pointers * static_cast<size_t>(ctx.threads);
  const int64_t threads = ctx.pool ? ctx.threads : 1;
  const auto tiles_of = [&](int64_t i) { return std::min(b.tiles, image.tiles - i * b.tiles); };

  if (threads == 1 || shares_blocks(l, ctx.threads)) {
    parallel_items(ctx, l.blocks, threads, [&](int64_t worker, int64_t i) {
      char* const worker_block = blocks + b.bytes() * static_cast<size_t>(worker);
      float* const inputs = reinterpret_cast<float*>(worker_block);
      float* const products = reinterpret_cast<float*>(worker_block + b.products);
      const int64_t tiles = tiles_of(i);
      transform_inputs(p, image, b, i * b.tiles, 0, tiles, inputs);
      multiply(p, b, w, tiles, 0, b.positions, inputs, products, pointers + l.pointers * static_cast<size_t>(worker),
               ctx.watch);
      if (ctx.watch != nullptr && ctx.watch->stopped()) return;  // the products are not all there
      transform_outputs(p, image, b, w, i * b.tiles, 0, tiles, products);
    });
    return MRT_OK;
  }
  float* const inputs = reinterpret_cast<float*>(blocks);
  float* const products = reinterpret_cast<float*>(blocks + b.products);
  for (int64_t i = 0; i < l.blocks; ++i) {
    const int64_t tiles = tiles_of(i), first = i * b.tiles, pieces = std::min(tiles, 2 * threads);
    parallel_items(ctx, pieces, threads, [&](int64_t, int64_t j) {
      transform_inputs(p, image, b, first, tiles * j / pieces, tiles * (j + 1) / pieces, inputs);
    });
    parallel_items(ctx, b.positions, threads, [&](int64_t worker, int64_t j) {
      multiply(p, b, w, tiles, j, j + 1, inputs, products, pointers + l.pointers * static_cast<size_t>(worker),
               ctx.watch);
    });
    parallel_items(ctx, pieces, threads, [&](int64_t, int64_t j) {
      transform_outputs(p, image, b, w, first, tiles * j / pieces, tiles * (j + 1) / pieces, products);
    });
  }
  return MRT_OK;
}

// ---- packing ----

// OIHW to [(m + 2)^2][ceil(O / 16)][I][16], transformed in double precision.
Status pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) {
  ConvGeometry g;
  int64_t m;
  MRT_TRY(decode(attrs, &g, &m));
  MRT_TRY(check_conv_filter(kName, g, weight, g.out_channels, g.in_channels));
  *bytes = packed_size(g, m);
  if (out == nullptr) return Status();
  const WinogradMatrices& matrices = winograd_matrices(m);
  const int64_t side = m + 2, position = panels_of(g.out_channels) * g.in_channels * kPanel;
  std::memset(out, 0, static_cast<size_t>(*bytes));
  double factors[kMaxPosition * kMaxPosition][9];  // of the filter's nine numbers in each position
  for (int64_t p = 0; p < side * side; ++p)
    for (int64_t t = 0; t < 9; ++t) factors[p][t] = matrices.g[p / side][t / 3] * matrices.g[p % side][t % 3];
  for (int64_t o = 0; o < g.out_channels; ++o)
    for (int64_t c = 0; c < g.in_channels; ++c) {
      float* const to = static_cast<float*>(out) + (o / kPanel * g.in_channels + c) * kPanel + o % kPanel;
      const float* const numbers = weight.as<const float>() + (o * g.in_channels + c) * 9;
      double filter[9];
      for (int64_t t = 0; t < 9; ++t) filter[t] = static_cast<double>(numbers[t]);
      for (int64_t p = 0; p < side * side; ++p) {
        double sum = 0.0;
#pragma GCC unroll 9
        for (int64_t t = 0; t < 9; ++t) sum += factors[p][t] * filter[t];
        to[p * position] = static_cast<float>(sum);
      }
    }
  return Status();
}

const char* kernel_name(const void* params) {
  const Params& p = *static_cast<const Params*>(params);
  return p.kernel->name[p.m / 4];
}

// Of the convolution, not of the way it is computed: a rate above the machine's peak is what the algorithm saves.
double flops(const void* params, const Tensor*, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  return conv_flops(p.g, out[0].shape[0] * out[0].shape[1] * out[0].shape[2]);
}

}  // namespace

const Operator kOperator_conv2d_winograd_f32 = {
    &kContract, kWinogradF32.rows, sizeof(Params), prepare, check, run, scratch, flops, pack, nullptr, kernel_name};

}  // namespace mrt
