// The loops of bytes.h, once for all instruction sets. U says how 32 weights of each of 16 columns are multiplied:
//   U::V         floats, U::kStep bytes of the panel that one step reads
//   U::Weights   of a step; U::Sums: of a row's block, exact; add(weights, the step's bytes of the row), floats(i)
#pragma once

#include <cfloat>

#include "kernels/gemmq/bytes.h"
#include "kernels/gemmq/group.h"

namespace mrt {
namespace {

template <typename V>
void quantize_block(const float* x, int64_t n, int8_t* q, BlockFactors* f) {
  constexpr int kVectors = kByteBlock / V::width;
  V v[kVectors], largest = V::zero();
  typename V::Mask odd = V::zero() != V::zero();
  for (int i = 0; i < kVectors; ++i) {
    const int64_t left = n - i * V::width;
    v[i] = left >= V::width ? V::load(x + i * V::width) : V::load(x + i * V::width, left > 0 ? left : 0);
    largest = max(abs(v[i]), largest);
    odd = odd | (v[i] != v[i]);
  }
  const float top = reduce_max(largest);
  const bool finite = !odd.any() && top <= FLT_MAX;
  const float scale = top / 127.0f;
  *f = {finite ? scale : __builtin_nanf(""), 0.0f};
  if (!finite || scale == 0.0f) {
    std::memset(q, 0, kByteBlock);
    return;
  }
  const V by = V::set(scale), lo = V::set(-127.0f), hi = V::set(127.0f);
  int32_t wide[kByteBlock], sum = 0;
  for (int i = 0; i < kVectors; ++i) {
    const auto rounded = min(max(v[i] / by, lo), hi).to_int();
    std::memcpy(wide + i * V::width, &rounded.v, sizeof(rounded.v));
  }
  for (int i = 0; i < kByteBlock; ++i) {
    q[i] = static_cast<int8_t>(wide[i]);
    sum += wide[i];
  }
  f->sum = static_cast<float>(sum);
}

template <typename V>
void quantize_row(const float* x, int64_t k, const ByteRow& to) {
  for (int64_t b = 0, at = 0; at < k; ++b, at += kByteBlock) {
    quantize_block<V>(x + at, k - at < kByteBlock ? k - at : kByteBlock, to.bytes + at, to.factors + b);
  }
}

// Lines that are read soon: those of the panel come in order; of the scales, one from the panels behind, of the same
// group.
MRT_INLINE void fetch_ahead(const UnpackCall& c, const uint8_t* w, int64_t row, int64_t panels) {
  constexpr int64_t kAhead = 2048, kLine = 64;
  for (int64_t i = 0; i < kPackedBlock; i += kLine) __builtin_prefetch(w + kAhead + i);
  const int64_t at = row / c.group * c.step + panels * kPanel;
  __builtin_prefetch(c.scale + at);
  if (c.zero) __builtin_prefetch(c.zero + at);
}

// A panel's block, whole: the last one may be copied to `end`, with zeros behind what there is.
MRT_INLINE const uint8_t* whole_block(const UnpackCall& c, int64_t row, uint8_t* end) {
  const uint8_t* const w = c.w + row / 2 * kPanel;
  const int64_t left = (c.rows + 1) / 2 * kPanel - row / 2 * kPanel;
  if (left >= kPackedBlock) return w;
  std::memset(end, 0, kPackedBlock);
  std::memcpy(end, w, static_cast<size_t>(left));
  return end;
}

// R rows by P panels, all of them whole where there are several, which come one behind the other in memory.
template <typename U, int R, int P>
void byte_rows(const ByteRowsCall& c) {
  using V = typename U::V;
  constexpr int kVectors = kPanel / V::width;
  V total[P][R][kVectors];
  for (auto& panel : total) {
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < kVectors; ++i) panel[r][i] = V::zero();
    }
  }
  const int64_t panel_bytes = (c.rows + 1) / 2 * kPanel;
  alignas(64) uint8_t end[kPackedBlock];
  for (int64_t row = 0, b = 0; row < c.rows; row += kByteBlock, ++b) {
    UnpackCall call = c;
    for (int p = 0; p < P; ++p) {
      const uint8_t* const w = whole_block(call, row, end);
      if (R == 1) fetch_ahead(call, call.w + row / 2 * kPanel, row, P);
      typename U::Sums sums[R];
      for (int64_t at = 0; at < kPackedBlock; at += U::kStep) {
        const typename U::Weights weights(w + at);
        for (int r = 0; r < R; ++r) sums[r].add(weights, c.first.bytes + r * c.bytes_apart + row + at / kPanel * 2);
      }
      const Group<V> group(call, row / c.group * c.step, 8.0f);
      for (int r = 0; r < R; ++r) {
        const BlockFactors& f = c.first.factors[r * c.factors_apart + b];
        const V sum = V::set(f.sum), scale = V::set(f.scale);
        for (int i = 0; i < kVectors; ++i) {
          const V centred = sums[r].floats(i) - group.zero[i] * sum;
          total[p][r][i] = total[p][r][i] + centred * (group.scale[i] * scale);
        }
      }
      call.w += panel_bytes;
      call.scale += kPanel;
      if (call.zero) call.zero += kPanel;
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < kVectors; ++i) total[p][r][i].store(c.out + (p * R + r) * kPanel + i * V::width);
    }
  }
}

template <typename U>
constexpr BytesTable bytes_table() {
  return {quantize_row<typename U::V>, byte_rows<U, 1, 1>, byte_rows<U, 1, kBytePanels>, byte_rows<U, kByteRows, 1>};
}

}  // namespace
}  // namespace mrt
