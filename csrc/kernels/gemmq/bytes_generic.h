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

// Lines that are read soon: those of the panel come in order; of the scales, one from the next panel, of the same
// group.
MRT_INLINE void fetch_ahead(const UnpackCall& c, const uint8_t* w, int64_t row) {
  constexpr int64_t kAhead = 4096, kLine = 64;
  for (int64_t i = 0; i < kPackedBlock; i += kLine) __builtin_prefetch(w + kAhead + i);
  const int64_t at = row / c.group * c.step + kPanel;
  __builtin_prefetch(c.scale + at);
  if (c.zero) __builtin_prefetch(c.zero + at);
}

template <typename U, int R>
void byte_rows(const ByteRowsCall& c) {
  using V = typename U::V;
  constexpr int kVectors = kPanel / V::width;
  V total[R][kVectors];
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < kVectors; ++i) total[r][i] = V::zero();
  }
  alignas(64) uint8_t end[kPackedBlock];
  const int64_t bytes = (c.rows + 1) / 2 * kPanel;
  for (int64_t row = 0, b = 0; row < c.rows; row += kByteBlock, ++b) {
    const uint8_t* w = c.w + b * kPackedBlock;
    const int64_t left = bytes - b * kPackedBlock;
    if (left < kPackedBlock) {  // multiplied by zeros of the row
      std::memset(end, 0, sizeof(end));
      std::memcpy(end, w, static_cast<size_t>(left));
      w = end;
    } else if (R == 1) {
      fetch_ahead(c, w, row);
    }
    typename U::Sums sums[R];
    for (int64_t at = 0; at < kPackedBlock; at += U::kStep) {
      const typename U::Weights weights(w + at);
      for (int r = 0; r < R; ++r) sums[r].add(weights, c.first.bytes + r * c.bytes_apart + row + at / kPanel * 2);
    }
    const Group<V> group(c, row, 8.0f);
    for (int r = 0; r < R; ++r) {
      const BlockFactors& f = c.first.factors[r * c.factors_apart + b];
      const V sum = V::set(f.sum), scale = V::set(f.scale);
      for (int i = 0; i < kVectors; ++i) {
        const V centred = sums[r].floats(i) - group.zero[i] * sum;
        total[r][i] = total[r][i] + centred * (group.scale[i] * scale);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < kVectors; ++i) total[r][i].store(c.out + r * kPanel + i * V::width);
  }
}

template <typename U>
constexpr BytesTable bytes_table() {
  return {quantize_row<typename U::V>, byte_rows<U, 1>, byte_rows<U, kByteRows>};
}

}  // namespace
}  // namespace mrt
