// Packing of int8 weights: `gemm_u8s8_nr16_v2` and, a product per tap, `conv2d_u8s8_nr16_v2`.
//
// A product has `taps` stretches of kc k's each. Per panel of 16 columns, every part aligned to 64 bytes:
//   int32 sums[16]                     of each column's weights (what a zero point of the activations multiplies)
//   QMasks masks[taps][segments]       kinds of the groups, see tile.h; segments = ceil(kc / 256)
//   QOrder orders[taps][ceil(kc / 4)]  of ordered windows
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
  int64_t masks_at, orders_at, weights_at, bytes;
};
QPanelLayout q_panel_layout(int64_t taps, int64_t kc);

// Weights of n columns, stride_n apart; activations are at most a_max.
struct QSource {
  const int8_t* src;
  int64_t stride_n;
  int64_t n, a_max;
};
// Sums and kinds of a panel whose weights are written.
void q_describe_panel(const QPanelLayout& l, int64_t a_max, char* panel);
// Where weight k of a tap stands in the tap's groups, in k's.
inline int64_t q_place_of(const QPanelLayout& l, int64_t k) {
  const int64_t whole = l.kc / kQGroup * kQGroup;
  return k < whole || l.kc < kQGroup ? k : k + kQGroup - l.kc % kQGroup;
}

// All panels; at(tap, k) is the element's offset in a column.
template <typename At>
void q_pack_panels(const QSource& s, const QPanelLayout& l, At at, char* out) {
  for (int64_t first = 0; first < s.n; first += kQPanel, out += l.bytes) {
    int8_t* const w = reinterpret_cast<int8_t*>(out + l.weights_at);
    for (int64_t i = 0; i < l.bytes; ++i) out[i] = 0;
    const int64_t columns = s.n - first < kQPanel ? s.n - first : kQPanel;
    for (int64_t t = 0; t < l.taps; ++t) {
      for (int64_t k = 0; k < l.kc; ++k) {
        const int64_t place = q_place_of(l, k), offset = at(t, k);
        int8_t* const to = w + (t * l.groups + place / kQGroup) * kQPanel * kQGroup + place % kQGroup;
        for (int64_t j = 0; j < columns; ++j) to[j * kQGroup] = s.src[(first + j) * s.stride_n + offset];
      }
    }
    q_describe_panel(l, s.a_max, out);
  }
}

// Bytes of all panels of `n` columns, -1 if that does not fit in 62 bits; depth is checked by q_check_depth.
int64_t q_packed_bytes(int64_t taps, int64_t kc, int64_t n);
Status q_check_depth(const char* contract, int64_t taps, int64_t kc);

// Weight (tap, k, n) of packed panels.
int8_t q_packed_weight(const char* packed, const QPanelLayout& l, int64_t tap, int64_t k, int64_t n);

}  // namespace mrt
