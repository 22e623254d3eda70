// Products of a few rows with a panel where a multiply-add takes one lane of a register: what a row has for the next
// few of the depth is loaded at once.
#pragma once

#include "simd/vec.h"

namespace mrt {
namespace {

// acc[i] += x[i][u] * w, a row of NV vectors.
template <int u, typename V, int R, int NV>
MRT_INLINE void add_lane(const float* w, const V (&x)[R], V (&acc)[R][NV]) {
#pragma GCC unroll 16
  for (int j = 0; j < NV; j += 2) {  // two registers of weights at a time: with six rows the others are full
    const V left = V::load(w + j * V::width), right = V::load(w + (j + 1) * V::width);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      acc[i][j] = V::template fma_lane<u>(x[i], left, acc[i][j]);
      acc[i][j + 1] = V::template fma_lane<u>(x[i], right, acc[i][j + 1]);
    }
    V::before(acc[R - 1][j + 1]);
  }
}

// Four rows of w, ldw apart, and as many numbers of each row from a on; sums of one row of w may be apart from those of
// the next: acc[u % KU].
template <typename V, int R, int NV, int KU>
MRT_INLINE void add_lanes(const float* const (&a)[R], int64_t k, const float* w, int64_t ldw, V (&acc)[KU][R][NV]) {
  static_assert(V::width == 4 && NV % 2 == 0, "written out for four lanes and pairs of vectors");
  V x[R];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) x[i] = V::load(a[i] + k);
  add_lane<0>(w, x, acc[0]);
  add_lane<1>(w + ldw, x, acc[1 % KU]);
  add_lane<2>(w + 2 * ldw, x, acc[2 % KU]);
  add_lane<3>(w + 3 * ldw, x, acc[3 % KU]);
}

}  // namespace
}  // namespace mrt
