// Data movement as the definitions say it: one loop over the output's elements, each found by its index vector.
#pragma once

#include <cstring>

#include "kernels/movement/movement.h"

namespace mrt {

// source(index) is the flat element of x that y[index] comes from; -1: `fill`.
template <typename F>
void move_reference(const Tensor& x, const Tensor& y, const void* fill, F&& source) {
  const size_t size = y.dtype.bytes();
  int64_t index[MRT_MAX_RANK] = {};
  if (has_no_elements(y)) return;
  const int64_t n = y.elements();
  for (int64_t i = 0; i < n; ++i) {
    const int64_t from = source(static_cast<const int64_t*>(index));
    std::memcpy(y.as<char>() + i * size, from < 0 ? fill : x.as<char>() + from * size, size);
    for (int32_t d = y.ndim - 1; d >= 0 && ++index[d] == y.shape[d]; --d) index[d] = 0;
  }
}

// Row-major position of an index vector.
inline int64_t flat_index(const Tensor& t, const int64_t* index) {
  int64_t flat = 0;
  for (int32_t d = 0; d < t.ndim; ++d) flat = flat * t.shape[d] + index[d];
  return flat;
}

}  // namespace mrt
