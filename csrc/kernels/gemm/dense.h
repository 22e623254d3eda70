// What the contracts of y [..., n] = epilogue(a [..., k] * w [k, n]) share, whatever the numbers of w are.
#pragma once

#include "kernels/gemm/blocked.h"

namespace mrt {

// The weight before it is packed, [k, n] or, with w_trans, [n, k]; strides in elements.
struct DenseWeight {
  int64_t k, n, stride_k, stride_n;
};
Status decode_dense(const Tensor& weight, const Attrs& attrs, DenseWeight* out);

// That a and y fit each other and n and k.
Status check_dense(const char* contract, const Tensor& a, const Tensor& y, int64_t n, int64_t k);
double dense_flops(const Tensor& y, int64_t k);

// Of a product of floats.
struct DenseParams {
  const TileTable* table;  // null: the reference
  const EpilogueTable* epilogue_table;
  Epilogue epilogue;
  Blocking blocking;
  int64_t n, k;
};
// Attributes n and k, and the epilogue's.
Status prepare_dense(const Attrs& attrs, Isa isa, DenseParams* out);

// Operands of a run; `bias` and `residual` are the positions of these inputs.
struct DenseOperands {
  int64_t m;
  const float *a, *bias, *residual;
  float* y;
};
DenseOperands dense_operands(const Tensor* in, int n_in, int bias, int residual, const Tensor& y);

// The product, but for its weights.
Product dense_product(const DenseParams& p, const DenseOperands& o);

}  // namespace mrt
