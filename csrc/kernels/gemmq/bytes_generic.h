// The loops of bytes.h, once for all instruction sets. U says how 32 weights of each of 16 columns are multiplied:
//   U::V         floats, U::kStep bytes of the panel that one step reads
//   U::Weights, U::Activations   of a step; the latter of a row's bytes
//   U::Sums      of a row's block, exact; add(weights, activations), floats(i)
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

// R rows by P panels, all of them whole where there are several, which come one behind the other in memory.
template <typename U, int R, int P>
void byte_rows(const ByteRowsCall& c) {
  using V = typename U::V;
  constexpr int kVectors = kPanel / V::width, kSteps = kPackedBlock / U::kStep;
  constexpr int64_t kAhead = 8192, kLine = 64;
  V total[P][R][kVectors];
  for (auto& panel : total) {
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < kVectors; ++i) panel[r][i] = V::zero();
    }
  }
  const int64_t panel_bytes = (c.rows + 1) / 2 * kPanel;
  alignas(64) uint8_t end[kPackedBlock];
  int64_t group_at = 0, group_end = c.group;
  for (int64_t row = 0, b = 0; row < c.rows; row += kByteBlock, ++b) {
    if (row == group_end) {
      group_at += c.step;
      group_end += c.group;
    }
    const int64_t first = row / 2 * kPanel, left = panel_bytes - first;
    // Lines that are read soon: a panel's end is followed by where the next one of these has begun long ago; and of the
    // scales and zero points one from the panels behind, of the same group.
    const int64_t ahead = first + (left > kAhead ? kAhead : kAhead + (P - 1) * panel_bytes);
    typename U::Activations x[R][kSteps];
#pragma GCC unroll 8
    for (int i = 0; P > 1 && i < kSteps; ++i) x[0][i].load(c.first.bytes + row + i * (U::kStep / kPanel * 2));
    for (int p = 0; p < P; ++p) {
      const uint8_t *const panel = c.w + p * panel_bytes, *w = panel + first;
      const int64_t at = group_at + p * kPanel;
      if (left < kPackedBlock) {  // the rest of the last block is zeros
        std::memset(end, 0, kPackedBlock);
        std::memcpy(end, w, static_cast<size_t>(left));
        w = end;
      }
      if (R == 1) {
        for (int64_t i = 0; i < kPackedBlock; i += kLine) __builtin_prefetch(panel + ahead + i);
        __builtin_prefetch(c.scale.from(at + P * kPanel).data);
        if (c.zero) __builtin_prefetch(c.zero + at + P * kPanel);
      }
      typename U::Sums sums[R];
      const auto step = [&](int i) __attribute__((always_inline)) {
        const typename U::Weights weights(w + i * U::kStep);
        for (int r = 0; r < R; ++r) {
          if (P == 1) x[r][i].load(c.first.bytes + r * c.bytes_apart + row + i * (U::kStep / kPanel * 2));
          sums[r].add(weights, x[r][i]);
        }
      };
      if constexpr (P > 1) {
#pragma GCC unroll 8
        for (int i = 0; i < kSteps; ++i) step(i);
      } else {
        for (int i = 0; i < kSteps; ++i) step(i);
      }
      const Group<V> group(c, at, 8.0f);
      for (int r = 0; r < R; ++r) {
        const BlockFactors& f = c.first.factors[r * c.factors_apart + b];
        const V sum = V::set(f.sum), scale = V::set(f.scale);
        for (int i = 0; i < kVectors; ++i) {
          const V centred = sums[r].floats(i) - group.zero[i] * sum;
          total[p][r][i] = total[p][r][i] + centred * (group.scale[i] * scale);
        }
      }
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
  BytesTable t{quantize_row<typename U::V>, byte_rows<U, 1, 1>, nullptr, byte_rows<U, kByteRows, 1>};
  if constexpr (U::kStep > kPanel) t.panels = byte_rows<U, 1, kBytePanels>;
  return t;
}

}  // namespace
}  // namespace mrt
