// The loops around the tile of 8-bit products: blocks that fit the caches, and threads.
#pragma once

#include <cstdint>

#include "kernels/qgemm/pack.h"
#include "kernels/qgemm/tile.h"

namespace mrt {

// What turns sums into results: the attributes and operands that gemm_u8s8 and conv2d_u8s8 share. Inputs from 2 on are
// scale [n], bias? [n], residual? like y, and what only a run knows of its operands: a_scale? float32 [], a_zero?
// uint8 [], w_zero? int8 [n].
struct QOutput {
  Epilogue epilogue;
  double scale;   // of a quantized y
  int64_t zero;   // of a quantized y
  int64_t y_max;  // the largest value of a quantized y; -1: the type's
  QSum sum;       // where the residual is bytes
};
constexpr DTypes kQOutputs = kF32 | kU8 | kS8 | kS32;  // what y may be
extern const Attribute kQOutputAttributes[3];
extern const Attribute kQInputAttributes[2];
// Those of the output, and those of an epilogue that the contract has.
Status decode_q_output(const Attrs& attrs, QOutput* out);
// And those of a sum of bytes, in contracts whose residual may be that.
extern const Attribute kQSumAttributes[5];
Status decode_q_sum(const Attrs& attrs, const QTileTable* table, QOutput* out);
// Shapes of these inputs, and the type of y against the attributes.
Status check_q_operands(const char* contract, const QOutput& o, int64_t n, const Tensor* in, int n_in, const Tensor& y);

// y [m, n] = finish(A [m, taps * kc] * W), W packed as pack.h says.
struct QProduct {
  const QTileTable* table;
  int64_t m, n, taps, kc;
  int64_t groups;   // products side by side, each with its n columns of y and its panels; 0: one
  int64_t group_a;  // bytes from the rows of A of one group to the next's
  // As in Product (kernels/gemm/blocked.h), over bytes.
  void (*rows_of)(const void* user, int64_t m0, int64_t rows, const uint8_t** out);
  const void* user;
  const uint8_t* a;
  int64_t lda;
  int64_t row_bytes;  // of A that one row adds to the cache
  int64_t a_zero;
  const int8_t* w_zero;  // null, or the zero point of each column of all groups
  const char* w;
  QFinishCall finish;  // scale, bias, residual, y of column 0 and row 0, and all that does not change
  Watch* watch;        // null, or what may end the run: the product is then left between two panels
};

// Fills in what of `finish` comes from attributes and operands (in[2] to in[5]).
QFinishCall q_finish_call(const QOutput& o, const Tensor* in, int n_in, const Tensor& y, int64_t columns);

// The zero point of the activations that a run gives, else `fixed`; and those of the weights, or null.
int64_t q_a_zero(const Tensor* in, int n_in, int64_t fixed);
const int8_t* q_w_zero(const Tensor* in, int n_in);
// With zero points of the weights a factor is up to 255 as well: sums of `depth` products must still fit in 32 bits.
Status q_check_zeros(const char* contract, int64_t depth, const Tensor* in, int n_in);

// The sums of panels one behind the other, acc [panels][rows][16], for rows of l.kc bytes; one tap.
void q_panel_sums(const QTileTable& table, const QPanelLayout& l, const char* packed, int64_t panels,
                  const uint8_t* const* row_at, int64_t rows, int32_t* acc);

size_t q_product_scratch(int64_t taps);  // of each worker
// Within parallel_items, or who calls it asks p.watch afterwards.
void q_product_block(const QProduct& p, int64_t m0, int64_t m1, int64_t p0, int64_t p1, void* scratch);
void run_q_product(const QProduct& p, KernelContext& ctx, void* scratch);

}  // namespace mrt
