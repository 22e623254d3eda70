// Blocks of random numbers, written once for every instruction set: loops that the compiler makes vectors of.
#pragma once

#include "kernels/random/philox.h"

namespace mrt {
namespace {

// Word j of block first + i is words[j][i].
using Many = uint32_t[4][kRandomBlocks];

// Not inlined into each of the kinds: it is most of their code.
__attribute__((noinline)) void make_words(const RandomStream& s, uint64_t first, Many words) {
  const uint32_t low = static_cast<uint32_t>(first), high = static_cast<uint32_t>(first >> 32);
  for (uint32_t i = 0; i < kRandomBlocks; ++i) {
    const uint32_t c0 = low + i;
    const Words made = philox(c0, high + (c0 < low ? 1 : 0), s.draw, s.number, s.key[0], s.key[1]);
    for (int j = 0; j < 4; ++j) words[j][i] = made.w[j];
  }
}

void fill_uniform_f32(const RandomStream& s, uint64_t first, void* out) {
  Many words;
  make_words(s, first, words);
  float* y = static_cast<float*>(out);
  for (int i = 0; i < kRandomBlocks; ++i)
    for (int j = 0; j < 4; ++j) y[4 * i + j] = uniform(words[j][i]);
}

void fill_uniform_f64(const RandomStream& s, uint64_t first, void* out) {
  Many words;
  make_words(s, first, words);
  double* y = static_cast<double*>(out);
  for (int i = 0; i < kRandomBlocks; ++i)
    for (int j = 0; j < 2; ++j) y[2 * i + j] = upper53(words[2 * j][i], words[2 * j + 1][i]) * 0x1p-53;
}

void fill_normal_f32(const RandomStream& s, uint64_t first, void* out) {
  Many words;
  make_words(s, first, words);
  float* y = static_cast<float*>(out);
  for (int i = 0; i < kRandomBlocks; ++i)
    for (int j = 0; j < 4; j += 2) normal_f32(words[j][i], words[j + 1][i], y + 4 * i + j, y + 4 * i + j + 1);
}

void fill_normal_f64(const RandomStream& s, uint64_t first, void* out) {
  Many words;
  make_words(s, first, words);
  double* y = static_cast<double*>(out);
  for (int i = 0; i < kRandomBlocks; ++i) {
    const uint32_t w[4] = {words[0][i], words[1][i], words[2][i], words[3][i]};
    normal_f64(w, y + 2 * i, y + 2 * i + 1);
  }
}

void fill_bits_u64(const RandomStream& s, uint64_t first, void* out) {
  Many words;
  make_words(s, first, words);
  uint32_t* y = static_cast<uint32_t*>(out);
  for (int i = 0; i < kRandomBlocks; ++i)
    for (int j = 0; j < 4; ++j) y[4 * i + j] = words[j][i];
}

}  // namespace
}  // namespace mrt
