// Constants that are stored N:M: of each m neighbours along an axis n numbers, and where each stood. Kernels see
// nothing of it: what they read is packed from the dense tensor when a file is loaded.
#pragma once

#include <cstdint>

#include "artifact/plan.h"
#include "runtime/expr.h"

namespace mrt {

// The dense tensor as [outer, groups, m, inner], what is stored of it as [outer, groups, inner, n].
struct NmLayout {
  int64_t outer = 1, groups = 0, inner = 1, n = 0, m = 0;
  int bits = 0;  // of an index: 2 or 4, the first in the lowest

  // Numbers that are stored, those of the dense tensor.
  int64_t count() const { return outer * groups * inner * n; }
  size_t dense_count() const { return static_cast<size_t>(outer * groups * m * inner); }
  int64_t index_bytes() const { return (count() * bits + 7) / 8; }
};

// From the extents, all of them fixed: those of the indices are those of the value with one axis in groups, and n
// behind them all. False where they do not belong together.
bool n_m_layout(const ExprTable& exprs, const plan::Value& value, const plan::Value& indices, NmLayout* out);

// Writes all of the dense tensor, whose elements have `bytes` (1, 2 or 4). null, or what is wrong with the indices.
const char* widen(const NmLayout& layout, const void* values, const uint8_t* indices, size_t bytes, void* dense);

}  // namespace mrt
