// matmul_f32: y = epilogue(alpha * op(a) * op(b)) of two run-time operands, batch dimensions broadcast.
//
// b is packed into panels in scratch, as weights are ahead of time; a product of few rows reads b where it lies,
// because packing would cost more than it saves. Where b has no batch dimensions the batch is part of the rows.
#include <algorithm>

#include "kernels/checks.h"
#include "kernels/gemm/blocked.h"
#include "kernels/gemm/pack.h"
#include "kernels/matmul/batch.h"

namespace mrt {
namespace {

constexpr const char* kName = "matmul_f32";

constexpr Operand kInputs[] = {{"a", kF32, kAnyRank}, {"b", kF32, kAnyRank}, {"bias", kF32, 1, kOptional | kBias}};
constexpr Operand kOutputs[] = {{"y", kF32, kAnyRank}};
constexpr Attribute kAttributes[] = {integer("trans_a", 0, 1, 0), integer("trans_b", 0, 1, 0), number("alpha", 1)};
constexpr Contract kContract = {kName, "", kInputs, kOutputs, kAttributes, kActivationAttributes};

struct Params {
  const TileTable* table;  // null: the reference
  const EpilogueTable* epilogue_table;
  Epilogue epilogue;
  bool trans_a, trans_b;
  float alpha;
};

Status prepare(const Attrs& attrs, Isa isa, void* out) {
  Params& p = *static_cast<Params*>(out);
  int64_t trans_a, trans_b;
  double alpha;
  MRT_TRY(attr_int(attrs, "trans_a", &trans_a));
  MRT_TRY(attr_int(attrs, "trans_b", &trans_b));
  MRT_TRY(attr_float(attrs, "alpha", &alpha));
  MRT_TRY(decode_epilogue(attrs, &p.epilogue));
  p.trans_a = trans_a != 0;
  p.trans_b = trans_b != 0;
  p.alpha = static_cast<float>(alpha);
  p.table = kTile[isa];
  p.epilogue_table = kEpilogue[isa];
  return Status();
}

// ---- shapes ----

// The extents of one product, and how many there are.
struct Shape {
  int64_t batch, m, n, k;
  bool shared_b;  // one b for the whole batch
};

Shape shape_of(const Params& p, const Tensor* in, const Tensor& y) {
  const Tensor &a = in[0], &b = in[1];
  const int64_t m = a.shape[a.ndim - (p.trans_a ? 1 : 2)], k = a.shape[a.ndim - (p.trans_a ? 2 : 1)];
  const int64_t n = b.shape[b.ndim - (p.trans_b ? 2 : 1)];
  Shape s{y.extent(0, y.ndim - 2), m, n, k, b.extent(0, b.ndim - 2) == 1};
  if (s.shared_b && !p.trans_a && a.extent(0, a.ndim - 2) == s.batch) {
    s.m *= s.batch;
    s.batch = 1;
  }
  return s;
}

// ---- scratch, of each thread: packed b, packed (or scaled) a, row pointers ----

struct Layout {
  int64_t b, a, pointers;  // bytes; -1: too many
  bool direct;             // b is read where it lies
};

Layout layout_of(const Params& p, const Shape& s) {
  Layout l{};
  l.direct = !p.trans_b && s.m <= p.table->mr && s.n >= kPanel;
  const int64_t rest = l.direct ? s.n % kPanel : s.n;  // columns to pack
  l.b = checked_mul(packed_panel_bytes(s.k, rest), 1);
  const bool copy_a = p.trans_a || (l.direct && p.alpha != 1.0f);
  l.a = copy_a ? checked_mul(checked_mul(s.m, s.k), 4) : 0;
  if (l.a >= 0) l.a = static_cast<int64_t>(align64(static_cast<size_t>(l.a)));
  l.pointers = static_cast<int64_t>(product_scratch(p.table->mr, 1, s.k));
  return l;
}

Status check(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  const Tensor &a = in[0], &b = in[1], &y = out[0];
  MRT_TRY(check_batch(kName, a, b, y));
  const int64_t m = a.shape[a.ndim - (p.trans_a ? 1 : 2)], k = a.shape[a.ndim - (p.trans_a ? 2 : 1)];
  MRT_TRY(check_extent(kName, "b", b, b.ndim - (p.trans_b ? 1 : 2), k));
  const int64_t n = b.shape[b.ndim - (p.trans_b ? 2 : 1)];
  MRT_TRY(check_extent(kName, "y", y, y.ndim - 2, m));
  MRT_TRY(check_extent(kName, "y", y, y.ndim - 1, n));
  if (p.table && y.elements() > 0) {
    const Layout l = layout_of(p, shape_of(p, in, y));
    if (l.a < 0 || l.b < 0) return fail(MRT_ERROR_SHAPE, "%s: the operands are too large to pack", kName);
  }
  return Status();
}

size_t scratch(const void* params, const Tensor* in, int, const Tensor* out, int, int32_t threads) {
  const Params& p = *static_cast<const Params*>(params);
  if (!p.table || out[0].elements() == 0) return 0;
  const Layout l = layout_of(p, shape_of(p, in, out[0]));
  // Threads share the packed operands or have their own, whichever way the work is split.
  return static_cast<size_t>(l.b + l.a + l.pointers) * static_cast<size_t>(threads);
}

// ---- one product ----

struct Operands {
  const float *a, *b, *bias;
  float* y;
};

// The rows of a, scaled or turned as the product reads them.
const float* rows_of_a(const Params& p, const Shape& s, bool direct, const float* a, float* out) {
  const float alpha = direct ? p.alpha : 1.0f;
  if (!p.trans_a && alpha == 1.0f) return a;
  if (!p.trans_a) {
    for (int64_t i = 0; i < s.m * s.k; ++i) out[i] = a[i] * alpha;
    return out;
  }
  constexpr int64_t kPiece = 16;  // columns of a at a time: their lines stay in cache
  for (int64_t begin = 0; begin < s.m; begin += kPiece) {
    const int64_t end = std::min(s.m, begin + kPiece);
    for (int64_t d = 0; d < s.k; ++d)
      for (int64_t i = begin; i < end; ++i) out[i * s.k + d] = a[d * s.m + i] * alpha;
  }
  return out;
}

void one_product(const Params& p, const Shape& s, const Operands& o, bool keep_b, KernelContext& ctx, char* scratch,
                 bool alone) {
  const Layout l = layout_of(p, s);
  float* const packed = reinterpret_cast<float*>(scratch);
  float* const a = reinterpret_cast<float*>(scratch + l.b);
  char* const pointers = scratch + l.b + l.a;
  const int64_t direct_columns = l.direct ? s.n - s.n % kPanel : 0, rest = s.n - direct_columns;
  const int64_t stride_k = p.trans_b ? 1 : s.n, stride_n = p.trans_b ? s.k : 1;
  if (!keep_b && rest > 0) {
    const float alpha = l.direct ? 1.0f : p.alpha;
    const float* from = o.b + direct_columns * stride_n;
    const auto pack = [&](int64_t p0, int64_t p1) {
      pack_panels_scaled(from, s.k, rest, stride_k, stride_n, alpha, p0, p1, packed);
    };
    if (alone) {
      pack(0, panels_of(rest));
    } else {
      parallel_ranges(ctx, panels_of(rest), std::max<int64_t>(1, 4096 / std::max<int64_t>(1, s.k)), pack);
    }
  }
  Product product{};
  product.table = p.table;
  product.epilogue_table = p.epilogue_table;
  product.epilogue = &p.epilogue;
  product.m = s.m;
  product.taps = 1;
  product.kc = s.k;
  product.a = rows_of_a(p, s, l.direct, o.a, a);
  product.lda = s.k;
  product.ldc = s.n;
  product.watch = ctx.watch;
  const auto multiply = [&](int64_t column, int64_t columns) {
    product.n = columns;
    product.c = o.y + column;
    product.bias = o.bias ? o.bias + column : nullptr;
    if (alone) {
      product_block(product, 0, s.m, 0, panels_of(columns), pointers);
    } else {
      run_product(product, ctx, pointers);
    }
  };
  if (direct_columns > 0) {
    product.w = o.b;
    product.ldw = s.n;
    product.panel_step = kPanel;
    multiply(0, direct_columns);
    product.ldw = product.panel_step = 0;
  }
  product.w = packed;
  if (rest > 0) multiply(direct_columns, rest);
}

void reference(const Params& p, const Shape& s, const Operands& o) {
  for (int64_t i = 0; i < s.m; ++i) {
    for (int64_t j = 0; j < s.n; ++j) {
      double sum = 0.0;
      for (int64_t d = 0; d < s.k; ++d) {
        sum += static_cast<double>(o.a[p.trans_a ? d * s.m + i : i * s.k + d]) *
               static_cast<double>(o.b[p.trans_b ? j * s.k + d : d * s.n + j]);
      }
      sum *= static_cast<double>(p.alpha);
      o.y[i * s.n + j] = epilogue_reference(p.epilogue, sum, o.bias ? o.bias + j : nullptr, nullptr);
    }
  }
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  const Params& p = *static_cast<const Params*>(params);
  const Tensor &a = in[0], &b = in[1], &y = out[0];
  if (y.elements() == 0) return MRT_OK;
  const Shape s = shape_of(p, in, y);
  const auto operands = [&](int64_t index) {
    return Operands{a.as<const float>() + matrix_of(a, y, index) * s.m * s.k,
                    b.as<const float>() + matrix_of(b, y, index) * s.k * s.n,
                    present(in, n_in, 2) ? in[2].as<const float>() : nullptr, y.as<float>() + index * s.m * s.n};
  };
  if (!p.table) {
    for (int64_t i = 0; i < s.batch; ++i) reference(p, s, operands(i));
    return MRT_OK;
  }
  char* const scratch = static_cast<char*>(ctx.scratch);
  if (ctx.pool && ctx.threads > 1 && s.batch >= 2 * int64_t{ctx.threads}) {
    const Layout l = layout_of(p, s);
    const size_t bytes = static_cast<size_t>(l.b + l.a + l.pointers);
    parallel_items(ctx, s.batch, ctx.threads, [&](int64_t worker, int64_t i) {
      one_product(p, s, operands(i), false, ctx, scratch + static_cast<size_t>(worker) * bytes, true);
    });
    return MRT_OK;
  }
  const float* packed = nullptr;  // the b that scratch holds
  for (int64_t i = 0; i < s.batch; ++i) {
    const Operands o = operands(i);
    one_product(p, s, o, o.b == packed, ctx, scratch, false);
    packed = o.b;
  }
  return MRT_OK;
}

double flops(const void* params, const Tensor* in, int, const Tensor* out, int) {
  const Params& p = *static_cast<const Params*>(params);
  const Tensor& a = in[0];
  return 2.0 * static_cast<double>(out[0].elements()) * static_cast<double>(a.shape[a.ndim - (p.trans_a ? 2 : 1)]);
}

}  // namespace

const Operator kOperator_matmul_f32 = {&kContract, kTile.rows, sizeof(Params), prepare, check, run, scratch, flops};

}  // namespace mrt
