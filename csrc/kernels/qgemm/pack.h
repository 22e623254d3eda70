// Packing of int8 weights: `gemm_u8s8_nr16_v1` and, a product per tap, `conv2d_u8s8_nr16_v1`.
//
// A product has `taps` stretches of kc k's each. Per panel of 16 columns, every part aligned to 64 bytes:
//   int32 sums[16]                     of each column's weights (what a zero point of the activations multiplies)
//   QMasks masks[taps][segments]       kinds of the groups, see tile.h; segments = ceil(kc / 256)
//   int8 w[taps][ceil(kc / 4)][16][4]  missing columns zero. The last kc % 4 weights of a tap stand at the end of their
//                                      group, behind zeros, if kc >= 4, so that a row is read from kc - 4; else at its
//                                      beginning
#pragma once

#include <cstdint>

#include "kernels/kernel.h"
#include "kernels/qgemm/tile.h"

namespace mrt {

// Sums of this depth fit in 32 bits whatever the operands: 255 * 128 * 65536 < 2^31.
constexpr int64_t kQMaxDepth = 65536;

struct QPanelLayout {
  int64_t taps, kc;
  int64_t groups;    // of a tap, the last part included
  int64_t segments;  // of a tap
  int64_t masks_at, weights_at, bytes;
};
QPanelLayout q_panel_layout(int64_t taps, int64_t kc);

// The element (tap, k, n) of the weight is at src[tap * stride_tap + k * stride_k + n * stride_n]; activations are at
// most a_max.
struct QSource {
  const int8_t* src;
  int64_t stride_tap, stride_k, stride_n;
  int64_t n, a_max;
};
void q_pack_panels(const QSource& s, const QPanelLayout& l, char* out);

// Bytes of all panels of `n` columns, -1 if that does not fit in 62 bits; depth is checked by q_check_depth.
int64_t q_packed_bytes(int64_t taps, int64_t kc, int64_t n);
Status q_check_depth(const char* contract, int64_t taps, int64_t kc);

// Weight (tap, k, n) of packed panels.
int8_t q_packed_weight(const char* packed, const QPanelLayout& l, int64_t tap, int64_t k, int64_t n);

}  // namespace mrt
