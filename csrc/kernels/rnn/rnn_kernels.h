// The inner functions of lstm_f32 and gru_f32 that every instruction set fills in.
#pragma once

#include "kernels/checks.h"
#include "kernels/dynamic_quantize/dynamic_quantize_kernels.h"
#include "kernels/qgemm/pack.h"

namespace mrt {

constexpr int kRnnPanel = 16;

// One step of one sequence: the gates of `hidden` units, gate g of unit j at pre[at[g] + j].
struct LstmCell {
  const float* pre;  // W x + R h + biases
  int64_t at[4];     // of i, f, g, o
  int64_t hidden;
  float* c;  // [hidden], in and out
  float* h;  // [hidden], out
};
struct GruCell {
  const float* pre;    // W x + bias
  const float* rec;    // R h + bias
  const float* rec_h;  // of the candidate: rec, or R (r h) + bias where the reset comes before the product
  int64_t at[3];       // of z, r, n
  int64_t hidden;
  bool reset_after;  // r multiplies R h (linear_before_reset) instead of h
  float* h;          // [hidden], in and out
};

// What a product of bytes adds: c[i][16 p + j] += (acc - a_zero * (sum of weights) - row_sums[i] * zeros) * (scale *
// a_scale) of column 16 p + j.
struct RnnSums {
  const int32_t* acc;  // [panels][rows][16]
  int64_t panels, rows;
  const char* packed;  // the first panel, which begins with the sums of its columns' weights
  int64_t panel_bytes;
  uint32_t a_zero;
  const int32_t* row_sums;  // null where there are no zeros
  const int32_t* zeros;     // [panels * 16]
  const float* scale;       // [panels * 16]
  float a_scale;
  float* c;
  int64_t ldc;
};

struct RnnKernel {
  // c[rows][panels * 16] += a[rows][k] * panels, each [k][16].
  void (*product)(const float* a, int64_t lda, int64_t rows, int64_t k, const float* panels, int64_t count, float* c,
                  int64_t ldc);
  void (*lstm)(const LstmCell& cell);
  void (*gru)(const GruCell& cell);
  void (*gru_reset)(const GruCell& cell, float* out);  // out = r h
  void (*add_sums)(const RnnSums& sums);
};

#define MRT_TABLE RnnKernel
#define MRT_LIST kRnnF32
#define MRT_KERNELS "kernels/rnn/kernels.inc"
#include "kernels/kernel_list.inc"

// W or R of all directions: floats in panels, or bytes with a scale and, it may be, a zero point for each row of gates.
struct RnnWeights {
  const float* panels;
  const char* bytes;    // not null: packed as pack.h of qgemm says, and
  const float* scale;   // [dirs, gates * hidden]
  const int8_t* zeros;  // null, or the same
};

// What the contracts come down to. Pointers of absent tensors are null.
struct RnnProblem {
  int64_t steps, batch, inputs, hidden, dirs, gates;
  bool reversed;     // the only direction is the reverse one
  bool torch_order;  // order of the gates: i f g o and r z n, else i o f c and z r h
  bool reset_after;
  RnnWeights w, r;
  // Of weights of bytes: x is quantized by the range of all of it, h in each step by that of all sequences.
  const QTileTable* tiles;
  const DynamicQuantizeKernel* quantize;
  ByteScale x_scale;
  const float *x, *bias, *h0, *c0;
  const int32_t* lengths;
  float *y, *hn, *cn;

  int64_t width() const { return (gates * hidden + kRnnPanel - 1) / kRnnPanel * kRnnPanel; }
  // Row `row` of gates, column i of a packed weight with k columns, of direction d.
  static int64_t packed_at(int64_t row, int64_t i, int64_t k) {
    return row / kRnnPanel * k * kRnnPanel + i * kRnnPanel + row % kRnnPanel;
  }
  bool backward(int64_t d) const { return dirs == 2 ? d == 1 : reversed; }
};

void lstm_reference(const RnnProblem& p);
void gru_reference(const RnnProblem& p);

}  // namespace mrt
