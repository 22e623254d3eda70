// What the tiles of every ISA share: bytes of a row, and from 32-bit sums to results for every vector width. Included
// by one file per ISA.
//
// Multiplication and addition are separate (no FMA), so that every ISA and the reference round alike: a quantized
// result is the same everywhere.
#pragma once

#include "kernels/epilogue/epilogue.h"
#include "kernels/qgemm/tile.h"
#include "simd/vec.h"

namespace mrt {
namespace {

template <typename V>
MRT_INLINE typename V::Int load_int(const int32_t* p) {
  typename V::Int r;
  std::memcpy(&r.v, p, sizeof(r.v));
  return r;
}

// Four bytes of a row, to be broadcast.
MRT_INLINE int32_t four_bytes(const uint8_t* p) {
  int32_t v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
// The last kc % 4: with those before them (whose weights are zero), or alone where there are none.
MRT_INLINE int32_t tail_bytes(const uint8_t* row, int64_t kc) {
  if (kc >= kQGroup) return four_bytes(row + kc - kQGroup);
  uint8_t bytes[kQGroup] = {};
  for (int64_t k = 0; k < kc; ++k) bytes[k] = row[k];
  return four_bytes(bytes);
}

// A row of 16 floats, the first n of which exist.
struct Row16 {
  alignas(64) float v[kQPanel];
};
MRT_INLINE void load_row16(const float* p, int64_t n, float fill, Row16* out) {
  for (int64_t j = 0; j < kQPanel; ++j) out->v[j] = j < n ? p[j] : fill;
}

// The low bytes of 16 integers from -128 to 255.
template <typename I>
MRT_INLINE void store_bytes(const I* q, int64_t n, uint8_t* y) {
  alignas(64) int32_t wide[kQPanel];
#pragma GCC unroll 16
  for (int j = 0; j < static_cast<int>(kQPanel) / I::width; ++j) {
    std::memcpy(wide + j * I::width, &q[j].v, sizeof(q[j].v));
  }
  for (int64_t j = 0; j < n; ++j) y[j] = static_cast<uint8_t>(wide[j]);
}
#if defined(MRT_SIMD_AVX2)
MRT_INLINE void store_bytes(const I32x8* q, int64_t n, uint8_t* y) {
  // Packing works within halves of a register: 0-3 8-11 | 4-7 12-15, put in order as 64-bit pieces.
  const __m256i low = _mm256_set1_epi32(255);
  const __m256i w =
      _mm256_permute4x64_epi64(_mm256_packus_epi32(_mm256_and_si256(q[0].v, low), _mm256_and_si256(q[1].v, low)), 0xd8);
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
  if (n == kQPanel) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y), bytes);
  } else {
    std::memcpy(y, &bytes, static_cast<size_t>(n));
  }
}
#endif

// 16 floats, the bounds of which are met, to bytes.
template <typename V>
MRT_INLINE void store_quantized(const V* x, typename V::Int zero, int64_t n, uint8_t* y) {
  constexpr int NV = static_cast<int>(kQPanel) / V::width;
  typename V::Int q[NV];
#pragma GCC unroll 16
  for (int j = 0; j < NV; ++j) q[j] = x[j].to_int() + zero;
  store_bytes(q, n, y);
}

// The same of any floats. A NaN becomes the lower bound: max(x, lo) is lo where either is NaN.
template <typename V>
MRT_INLINE void quantize_row(const QFinishCall& c, V* x, uint8_t* y) {
  constexpr int NV = static_cast<int>(kQPanel) / V::width;
  const V inverse = V::set(c.inverse), lo = V::set(c.lo), hi = V::set(c.hi);
#pragma GCC unroll 16
  for (int j = 0; j < NV; ++j) x[j] = min(max(x[j] * inverse, lo), hi);
  store_quantized<V>(x, V::Int::set(c.zero), c.n, y);
}

// Nothing but a scale, a bias and bounds on the way to bytes, which is what most layers of a quantized model have.
template <typename V, bool kFloats>
MRT_INLINE void finish_folded(const QFinishCall& c) {
  constexpr int NV = static_cast<int>(kQPanel) / V::width;
  const QFolded f = c.folded ? *c.folded : q_fold(c);
  V scale[NV], bias[NV];
  typename V::Int start[NV];
#pragma GCC unroll 16
  for (int j = 0; j < NV; ++j) {
    scale[j] = V::load(f.scale + j * V::width);
    bias[j] = V::load(f.bias + j * V::width);
    start[j] = load_int<V>(f.start + j * V::width);
  }
  const V lo = V::set(f.lo), hi = V::set(f.hi);
  const typename V::Int zero = V::Int::set(f.zero);
  // In locals: a byte that is stored may alias whatever is behind a pointer.
  const int32_t* acc = c.acc;
  uint8_t* y = static_cast<uint8_t*>(c.y);
  const int64_t n = c.n, ldy = c.ldy, ld = c.ld;
  for (int64_t left = c.rows; left > 0; --left, acc += ld, y += ldy) {
    V x[NV];
#pragma GCC unroll 16
    for (int j = 0; j < NV; ++j) {
      const typename V::Int sum = load_int<V>(acc + j * V::width);
      x[j] = (kFloats ? V::from_bits(sum) : V::from_int(sum + start[j])) * scale[j];
      x[j] = min(max(x[j] + bias[j], lo), hi);
    }
    store_quantized<V>(x, zero, n, y);
  }
}

MRT_INLINE int32_t sum_of(const uint8_t* a, int64_t n) {
  int32_t sum = 0;
  int64_t i = 0;
#if defined(MRT_SIMD_AVX2)
  __m256i sums = _mm256_setzero_si256();
  for (; i + 32 <= n; i += 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + i));
    sums = _mm256_add_epi64(sums, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
  }
  __m128i two = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  for (; i + 16 <= n; i += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i));
    two = _mm_add_epi64(two, _mm_sad_epu8(bytes, _mm_setzero_si128()));
  }
  sum = _mm_cvtsi128_si32(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two)));
#elif defined(__aarch64__)
  uint32x4_t sums = vdupq_n_u32(0);
  for (; i + 16 <= n; i += 16) sums = vpadalq_u16(sums, vpaddlq_u8(vld1q_u8(a + i)));
  sum = static_cast<int32_t>(vaddvq_u32(sums));
#endif
  for (; i < n; ++i) sum += a[i];
  return sum;
}
int32_t q_row_sum(const uint8_t* a, int64_t n) { return sum_of(a, n); }

// Takes the weights' zero points out of the sums.
MRT_INLINE void without_zeros(const QFinishCall& c) {
  alignas(64) uint32_t zero[kQPanel];
  std::memcpy(zero, c.w_zero, sizeof(zero));
  for (int64_t i = 0; i < c.rows; ++i) {
    uint32_t acc[kQPanel];
    int32_t* const row = c.acc + i * c.ld;
    std::memcpy(acc, row, sizeof(acc));
    const uint32_t sum = static_cast<uint32_t>(c.row_sums[i]);
    for (int64_t j = 0; j < kQPanel; ++j) acc[j] -= sum * zero[j];
    std::memcpy(row, acc, sizeof(acc));
  }
}

MRT_INLINE void store_sums(const QFinishCall& c) {
  for (int64_t i = 0; i < c.rows; ++i) {
    const int32_t* const acc = c.acc + i * c.ld;
    int32_t* const y = static_cast<int32_t*>(c.y) + i * c.ldy;
    for (int64_t j = 0; j < c.n; ++j) {
      y[j] = static_cast<int32_t>(static_cast<uint32_t>(acc[j]) - static_cast<uint32_t>(c.offset[j]));
    }
  }
}

// A tile's sums, which began with f.start, as floats; sum(i, j) is vector j of row i.
template <typename V, int MR, typename Sum>
MRT_INLINE void store_floats(const QFolded& f, uint8_t* y, int64_t ldy, const float* residual, int64_t ldr, Sum sum) {
  constexpr int NV = static_cast<int>(kQPanel) / V::width;
  const V lo = V::set(f.lo), hi = V::set(f.hi);
  const bool before = residual && !f.residual_after, after = residual && f.residual_after;
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    const V scale = V::load(f.scale + j * V::width), bias = V::load(f.bias + j * V::width);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      V x = V::from_int(sum(i, j)) * scale + bias;
      if (before) x = x + V::load(residual + i * ldr + j * V::width);
      x = min(hi, max(lo, x));
      if (after) x = x + V::load(residual + i * ldr + j * V::width);
      x.store(reinterpret_cast<float*>(y + i * ldy) + j * V::width);
    }
  }
}

// Scale, bias, residual and clamping in registers; `kLast`: and the result, else the floats replace the sums.
template <typename V, bool kLast>
MRT_INLINE void finish_rows(const QFinishCall& c) {
  constexpr int NV = static_cast<int>(kQPanel) / V::width;
  const Epilogue& e = *c.epilogue;
  Row16 scale, bias, residual;
  load_row16(c.scale, c.n, 0.0f, &scale);
  for (int64_t j = 0; j < kQPanel; ++j) scale.v[j] *= c.a_scale;
  load_row16(c.bias ? c.bias : c.scale, c.bias ? c.n : 0, 0.0f, &bias);
  const V lo = V::set(e.lo), hi = V::set(e.hi);
  const bool before = c.residual && !e.residual_after, after = kLast && c.residual && e.residual_after;
  for (int64_t i = 0; i < c.rows; ++i) {
    int32_t* const acc = c.acc + i * c.ld;
    V x[NV];
#pragma GCC unroll 16
    for (int j = 0; j < NV; ++j) {
      const int64_t at = j * V::width;
      x[j] = V::from_int(load_int<V>(acc + at) - load_int<V>(c.offset + at));
      x[j] = x[j] * V::load(scale.v + at) + V::load(bias.v + at);
    }
    const float* r = residual.v;
    if (c.residual) {
      if (c.n == kQPanel) {
        r = c.residual + i * c.ldr;
      } else {
        load_row16(c.residual + i * c.ldr, c.n, 0.0f, &residual);
      }
    }
#pragma GCC unroll 16
    for (int j = 0; j < NV; ++j) {
      if (before) x[j] = x[j] + V::load(r + j * V::width);
      x[j] = min(hi, max(lo, x[j]));
      if (after) x[j] = x[j] + V::load(r + j * V::width);
    }
    if (kLast && c.quantized) {
      quantize_row<V>(c, x, static_cast<uint8_t*>(c.y) + i * c.ldy);
      continue;
    }
    float* const y = kLast ? static_cast<float*>(c.y) + i * c.ldy : reinterpret_cast<float*>(acc);
    const int64_t n = kLast ? c.n : kQPanel;
#pragma GCC unroll 16
    for (int j = 0; j < NV; ++j) {
      const int64_t left = n - j * V::width;
      if (left >= V::width) {
        x[j].store(y + j * V::width);
      } else if (left > 0) {
        x[j].store(y + j * V::width, left);
      }
    }
  }
}

// A term of 8 bits and a residual of them, see QFinishCall::sum.
template <typename V>
MRT_INLINE void finish_sums(const QFinishCall& c) {
  constexpr int NV = static_cast<int>(kQPanel) / V::width;
  const QFolded f = q_fold(c);
  const V lo = V::set(f.lo), hi = V::set(f.hi), scale = V::set(c.sum->scale), y_scale = V::set(c.sum->y_scale);
  for (int64_t i = 0; i < c.rows; ++i) {
    const int32_t* const acc = c.acc + i * c.ld;
    const uint8_t* const bytes = c.bytes + i * c.ldr;
    Row16 residual = {};
    for (int64_t j = 0; j < c.n; ++j) {
      residual.v[j] = static_cast<float>(bytes[j] - c.sum->residual_zero) * c.sum->residual_scale;
    }
    V x[NV];
#pragma GCC unroll 16
    for (int j = 0; j < NV; ++j) {
      const int64_t at = j * V::width;
      x[j] = V::from_int(load_int<V>(acc + at) + load_int<V>(f.start + at)) * V::load(f.scale + at);
      x[j] = min(max(x[j] + V::load(f.bias + at), lo), hi);
      x[j] = V::from_int(x[j].to_int()) * scale + V::load(residual.v + at);
      x[j] = min(max(x[j] / y_scale, V::set(c.lo)), V::set(c.hi));
    }
    store_quantized<V>(x, V::Int::set(c.zero), c.n, static_cast<uint8_t*>(c.y) + i * c.ldy);
  }
}

// The floats that lie where the sums were, as results.
template <typename V>
MRT_INLINE void store_rows(const QFinishCall& c) {
  constexpr int NV = static_cast<int>(kQPanel) / V::width;
  for (int64_t i = 0; i < c.rows; ++i) {
    const float* const from = reinterpret_cast<const float*>(c.acc) + i * c.ld;
    if (!c.quantized) {
      float* const y = static_cast<float*>(c.y) + i * c.ldy;
      for (int64_t j = 0; j < c.n; ++j) y[j] = from[j];
      continue;
    }
    V x[NV];
#pragma GCC unroll 16
    for (int j = 0; j < NV; ++j) x[j] = V::load(from + j * V::width);
    quantize_row<V>(c, x, static_cast<uint8_t*>(c.y) + i * c.ldy);
  }
}

// `activations`: those of the instruction set, which are large enough to be there once.
template <typename V>
MRT_INLINE void q_finish(const QFinishCall& c, const EpilogueTable& activations) {
  const Epilogue& e = *c.epilogue;
  if (c.w_zero) without_zeros(c);
  if (c.sums) return store_sums(c);
  if (c.sum) return finish_sums<V>(c);
  if (c.folds()) return c.floats ? finish_folded<V, true>(c) : finish_folded<V, false>(c);
  if (e.clamp_only()) return finish_rows<V, true>(c);
  finish_rows<V, false>(c);
  activations.apply(e, reinterpret_cast<float*>(c.acc), c.ld, c.rows, c.n, e.residual_after ? c.residual : nullptr,
                    c.ldr);
  store_rows<V>(c);
}

}  // namespace
}  // namespace mrt
