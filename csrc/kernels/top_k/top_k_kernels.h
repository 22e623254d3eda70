// The inner functions of top_k that every instruction set fills in, and the numbers that they order.
#pragma once

#include "kernels/checks.h"

namespace mrt {

// How the bits of an element are a number. Those up to `f32` have keys of 32 bits.
enum class Number : uint8_t { u8, s8, u16, s16, f16, bf16, u32, s32, f32, u64, s64, f64 };

// Keys are signed integers in the order of the elements, the one that comes first smallest: of floats all NaN are one
// number above infinity, and -0 is 0; with `largest` the order is turned around. Fills keys[0, n) for n elements side
// by side and returns whether any key is below `limit`.
struct TopKKernel {
  bool (*narrow)(Number number, bool largest, const void* x, int64_t n, int32_t limit, int32_t* keys);
  bool (*wide)(Number number, bool largest, const void* x, int64_t n, int64_t limit, int64_t* keys);
};

#define MRT_TABLE TopKKernel
#define MRT_LIST kTopK
#define MRT_KERNELS "kernels/top_k/kernels.inc"
#include "kernels/kernel_list.inc"

// What top_k is, by the definition: how many elements of a line stand before element i, those of equal value by their
// position. NaN is above infinity, and one NaN is like the other. `stride` is in elements.
int64_t place_reference(Number number, bool largest, const char* x, int64_t n, int64_t stride, int64_t i);
bool is_nan_reference(Number number, const char* element);

inline size_t bytes_of(Number number) {
  return number <= Number::s8 ? 1 : number <= Number::bf16 ? 2 : number <= Number::f32 ? 4 : 8;
}

}  // namespace mrt
