// The inner functions of the random operators that every instruction set fills in.
#pragma once

#include "kernels/checks.h"

namespace mrt {

enum class RandomKind : uint8_t {
#define MRT_RANDOM(kind, type) kind,
#include "kernels/random/kinds.inc"
#undef MRT_RANDOM
};

// What Philox4x32-10 takes beside the number of a block: the seed as its key, and two words of its counter.
struct RandomStream {
  uint32_t key[2];
  uint32_t draw, number;
};

constexpr int kRandomBlocks = 64;      // made at once
constexpr int kRandomBlockBytes = 16;  // four words of 32 bits, which become as many bytes of every kind
constexpr int kRandomBytes = kRandomBlocks * kRandomBlockBytes;

// Fills out[0, kRandomBytes) with the elements of blocks [first, first + kRandomBlocks).
struct RandomKernel {
  void (*fill[5])(const RandomStream& stream, uint64_t first, void* out);  // by RandomKind
};

#define MRT_TABLE RandomKernel
#define MRT_LIST kRandom
#define MRT_KERNELS "kernels/random/kernels.inc"
#include "kernels/kernel_list.inc"

// The elements of one block, as the formulas say.
void random_reference(RandomKind kind, const RandomStream& stream, uint64_t block, void* out);

}  // namespace mrt
