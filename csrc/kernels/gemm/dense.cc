#include "kernels/gemm/dense.h"

#include "kernels/checks.h"

namespace mrt {

Status decode_dense(const Tensor& weight, const Attrs& attrs, DenseWeight* out) {
  int64_t trans = 0;
  MRT_TRY(attr_int(attrs, "w_trans", &trans));
  const int64_t rows = weight.shape[0], columns = weight.shape[1];
  *out = trans != 0 ? DenseWeight{columns, rows, 1, columns} : DenseWeight{rows, columns, columns, 1};
  return Status();
}

Status check_dense(const char* contract, const Tensor& a, const Tensor& y, int64_t n, int64_t k) {
  const int32_t last = a.ndim - 1;
  if (last < 0) return fail(MRT_ERROR_SHAPE, "%s: a is a scalar, expected at least one dimension", contract);
  MRT_TRY(check_extent(contract, "a", a, last, k));
  if (y.ndim != a.ndim) {
    return fail(MRT_ERROR_SHAPE, "%s: y has %d dimensions, expected the %d of a", contract, y.ndim, a.ndim);
  }
  for (int32_t i = 0; i < last; ++i) MRT_TRY(check_extent(contract, "y", y, i, a.shape[i]));
  return check_extent(contract, "y", y, last, n);
}

double dense_flops(const Tensor& y, int64_t k) { return 2.0 * element_count(y) * static_cast<double>(k); }

Status prepare_dense(const Attrs& attrs, Isa isa, DenseParams* out) {
  MRT_TRY(attr_int(attrs, "n", &out->n));
  MRT_TRY(attr_int(attrs, "k", &out->k));
  MRT_TRY(decode_epilogue(attrs, &out->epilogue));
  out->table = kTile[isa];
  out->epilogue_table = kEpilogue[isa];
  out->blocking = out->table ? out->table->blocking : Blocking();
  return Status();
}

DenseOperands dense_operands(const Tensor* in, int n_in, int bias, int residual, const Tensor& y) {
  const auto floats = [&](int i) { return present(in, n_in, i) ? in[i].as<const float>() : nullptr; };
  return {in[0].extent(0, in[0].ndim - 1), floats(0), floats(bias), floats(residual), y.as<float>()};
}

Product dense_product(const DenseParams& p, const DenseOperands& o) {
  Product product{};
  product.table = p.table;
  product.epilogue_table = p.epilogue_table;
  product.epilogue = &p.epilogue;
  product.blocking = p.blocking;
  product.m = o.m;
  product.n = p.n;
  product.taps = 1;
  product.kc = p.k;
  product.a = o.a;
  product.lda = p.k;
  product.c = o.y;
  product.ldc = p.n;
  product.bias = o.bias;
  product.residual = o.residual;
  product.ldr = p.n;
  return product;
}

}  // namespace mrt
