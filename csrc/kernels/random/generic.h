// Blocks of random numbers, written once for every instruction set: loops that the compiler makes vectors of, but for
// the products of Philox.
#pragma once

#include "kernels/random/philox.h"

namespace mrt {
namespace {

constexpr int kWords = 4 * kRandomBlocks;

// The words of blocks [first, first + kRandomBlocks), one block after the other. Not inlined into each of the kinds: it
// is most of their code.
#if MRT_SIMD_AVX2
// A lane of 64 bits is a word of a block; its upper half holds anything, which products and packing pass over.
__attribute__((noinline)) void make_words(const RandomStream& s, uint64_t first, uint32_t* words) {
  const __m256i a = _mm256_set1_epi64x(0xD2511F53), b = _mm256_set1_epi64x(0xCD9E8D57);
  for (int i = 0; i < kRandomBlocks; i += 4, first += 4) {
    const __m256i block =
        _mm256_add_epi64(_mm256_set1_epi64x(static_cast<int64_t>(first)), _mm256_set_epi64x(3, 2, 1, 0));
    __m256i c0 = block, c1 = _mm256_srli_epi64(block, 32);
    __m256i c2 = _mm256_set1_epi64x(s.draw), c3 = _mm256_set1_epi64x(s.number);
    uint32_t k0 = s.key[0], k1 = s.key[1];
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const __m256i p = _mm256_mul_epu32(c0, a), q = _mm256_mul_epu32(c2, b);
      c0 = _mm256_xor_si256(_mm256_srli_epi64(q, 32), _mm256_xor_si256(c1, _mm256_set1_epi64x(k0)));
      c2 = _mm256_xor_si256(_mm256_srli_epi64(p, 32), _mm256_xor_si256(c3, _mm256_set1_epi64x(k1)));
      c1 = q;
      c3 = p;
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    const __m256i front = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xAA);  // w0, w1 of the four blocks
    const __m256i back = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xAA);   // w2, w3
    const __m256i even = _mm256_unpacklo_epi64(front, back), odd = _mm256_unpackhi_epi64(front, back);
    __m256i* const to = reinterpret_cast<__m256i*>(words + 4 * i);
    _mm256_storeu_si256(to, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(even, odd, 0x31));
  }
}
#else
__attribute__((noinline)) void make_words(const RandomStream& s, uint64_t first, uint32_t* words) {
  const uint32_t low = static_cast<uint32_t>(first), high = static_cast<uint32_t>(first >> 32);
  for (uint32_t i = 0; i < kRandomBlocks; ++i) {
    const uint32_t c0 = low + i;
    const Words made = philox(c0, high + (c0 < low ? 1 : 0), s.draw, s.number, s.key[0], s.key[1]);
    for (int j = 0; j < 4; ++j) words[4 * i + j] = made.w[j];
  }
}
#endif

void fill_uniform_f32(const RandomStream& s, uint64_t first, void* out) {
  uint32_t words[kWords];
  make_words(s, first, words);
  float* y = static_cast<float*>(out);
  for (int i = 0; i < kWords; ++i) y[i] = uniform(words[i]);
}

void fill_uniform_f64(const RandomStream& s, uint64_t first, void* out) {
  uint32_t words[kWords];
  make_words(s, first, words);
  double* y = static_cast<double*>(out);
  for (int i = 0; i < kWords / 2; ++i) y[i] = upper53(words[2 * i], words[2 * i + 1]) * 0x1p-53;
}

void fill_normal_f32(const RandomStream& s, uint64_t first, void* out) {
  uint32_t words[kWords];
  make_words(s, first, words);
  float* y = static_cast<float*>(out);
  for (int i = 0; i < kWords; i += 2) normal_f32(words[i], words[i + 1], y + i, y + i + 1);
}

void fill_normal_f64(const RandomStream& s, uint64_t first, void* out) {
  uint32_t words[kWords];
  make_words(s, first, words);
  double* y = static_cast<double*>(out);
  for (int i = 0; i < kRandomBlocks; ++i) normal_f64(words + 4 * i, y + 2 * i, y + 2 * i + 1);
}

void fill_bits_u64(const RandomStream& s, uint64_t first, void* out) {
  make_words(s, first, static_cast<uint32_t*>(out));
}

}  // namespace
}  // namespace mrt
