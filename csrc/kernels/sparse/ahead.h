// Weights are read once for each tile of rows of a, from memory where they are many, and faster than a CPU looks ahead
// by itself.
#pragma once

#include "simd/vec.h"

namespace mrt {
namespace {

// 2 KiB ahead, which is how long memory takes (Zen 5, blocks of weights that no cache holds: 0.8 of the time). What
// stands behind the packing is no fault.
MRT_INLINE void prefetch_weights(const void* w) { __builtin_prefetch(static_cast<const char*>(w) + 2048); }

}  // namespace
}  // namespace mrt
