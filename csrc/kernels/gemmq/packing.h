// How weights of few bits lie: panels of 16 columns, [k][16] of int8, or [ceil(k / 2)][16] of bytes that hold two rows
// each, 8 more than the number.
#pragma once

#include <cstdint>

#include "kernels/checks.h"
#include "kernels/gemm/blocked.h"
#include "kernels/gemm/pack.h"

namespace mrt {

inline int64_t gemmq_panel_bytes(int64_t k, int64_t bits) {
  return checked_mul(bits == 8 ? k : ceil_div(k, 2), kPanel);
}
inline int64_t gemmq_packed_bytes(int64_t k, int64_t n, int64_t bits) {
  return checked_mul(panels_of(n), gemmq_panel_bytes(k, bits));
}

// The number in row k of a column, whose first byte is at `column`.
inline int gemmq_number(const uint8_t* column, int64_t k, int64_t bits) {
  if (bits == 8) return static_cast<int8_t>(column[k * kPanel]);
  return (column[k / 2 * kPanel] >> (k % 2 * 4) & 15) - 8;
}

Status gemmq_pack(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out);

}  // namespace mrt
