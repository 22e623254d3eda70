// What a plan must satisfy before anything of it runs. After this, every index in it may be used without a check.
#pragma once

#include <cstddef>

#include "artifact/plan.h"
#include "base/status.h"
#include "base/tensor.h"

namespace mrt {

// Limits that keep the work of loading in proportion to the file.
constexpr size_t kMaxSymbols = 512;
constexpr size_t kMaxExprs = 1 << 17;
constexpr size_t kMaxEntries = 64;
constexpr int kMaxBlockDepth = 32;

// The largest tensor; sums of a few of these still fit 64 bits.
constexpr int64_t kMaxTensorBytes = int64_t{1} << 46;

// Checks indices, definitions before uses, the nesting of blocks, the arity of steps, storage rules, and that constants
// lie inside the weights section and hold what their shape says. An error is MRT_ERROR_FORMAT for what no compiler may
// write, MRT_ERROR_VERSION for what a newer runtime may know.
Status validate(const plan::Plan& plan, size_t weights_size);

}  // namespace mrt
