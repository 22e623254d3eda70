// The inner functions of the attention kernels that every instruction set fills in.
#pragma once

#include "kernels/checks.h"

namespace mrt {

constexpr int kMaxAttentionRows = 8;

// A few rows of queries against one tile of keys: s = q k^T + mask, p = exp(s - max), o = o * exp(old max - max) + p v.
struct AttentionTile {
  int rows;
  int64_t d, dv, keys;
  const float* q;  // rows of d
  int64_t q_stride;
  // packed: panels of 16 scaled keys, [keys / 16][d][16], padded with zeros, and of 16 columns, [dv / 16][keys][16].
  // Otherwise rows of k and v as they are in memory, with the distances between them, and the scale.
  bool packed;
  const float* k;
  const float* v;
  int64_t k_stride, v_stride;
  float scale;
  float* columns;                        // of keys as they are: room for [d][8] of the queries
  const float* mask[kMaxAttentionRows];  // of the first key of the tile; null if there is no mask
  int64_t mask_stride;                   // 1, or 0 where one number stands for all keys
  int64_t limit[kMaxAttentionRows];      // keys that the row may see, at most `keys`
  bool first;                            // o holds nothing yet
  float* s;                              // [rows][keys rounded up to 16]
  float* max;                            // [rows], running maximum, -inf at first
  float* sum;                            // [rows], running sum of p, 0 at first
  float* o;                              // [rows][dv rounded up to 16]
  float* y[kMaxAttentionRows];           // with the last tile: where o / sum goes; else null
  bool safe;                             // a sum of 0 gives 0 instead of NaN
};

struct AttentionKernel {
  int rows;         // of the best block with packed keys,
  int direct_rows;  // and with keys as they are
  void (*tile)(const AttentionTile& t);
  void (*pack_k)(const float* k, int64_t stride, int64_t keys, int64_t d, float scale, float* out);
  void (*pack_v)(const float* v, int64_t stride, int64_t keys, int64_t dv, float* out);
  void (*finish)(const float* o, float sum, bool safe, float* y, int64_t dv);  // y = o / sum
};

#define MRT_TABLE AttentionKernel
#define MRT_LIST kAttentionF32
#define MRT_KERNELS "kernels/attention/kernels.inc"
#include "kernels/kernel_list.inc"

// What both contracts come down to: views with strides in floats.
struct AttentionProblem {
  int64_t batch, heads, kv_heads, sq, sk, d, dv;
  const float *q, *k, *v, *mask;
  float* y;
  struct Strides {
    int64_t batch, seq, head;
  } q_strides, k_strides, v_strides, y_strides;
  int64_t mask_strides[4];  // batch, head, query, key; 0 where it is broadcast
  float scale;
  int64_t causal;  // 0 none; 1: query i sees keys up to i; 2: up to i + sk - sq
  bool safe;       // rows that see nothing are 0 instead of NaN

  // How many keys query i sees.
  int64_t visible(int64_t i) const {
    const int64_t n = causal == 0 ? sk : i + 1 + (causal == 2 ? sk - sq : 0);
    return n < 0 ? 0 : n < sk ? n : sk;
  }
};

void attention_reference(const AttentionProblem& p);

}  // namespace mrt
