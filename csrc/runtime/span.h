// The memory that a tensor takes: which two of a caller's tensors share some.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/strided.h"

namespace mrt {

struct Span {
  uintptr_t begin = 0, end = 0;  // of bytes; equal: none

  bool overlaps(const Span& other) const { return begin < other.end && other.begin < end; }
};

inline Span span_of(const void* data, size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  return data ? Span{begin, begin + bytes} : Span{};
}

// Of a tensor of this shape, which has no more than `bytes` where it is dense; strides (may be null) in elements.
inline Span span_of(const void* data, size_t bytes, const int64_t* shape, const int64_t* strides, int32_t ndim,
                    size_t element) {
  if (bytes == 0 || is_contiguous(shape, strides, ndim)) return span_of(data, bytes);
  Span span = span_of(data, element);
  for (int32_t d = 0; d < ndim; ++d) {
    const int64_t reach = (shape[d] - 1) * strides[d] * static_cast<int64_t>(element);
    (reach < 0 ? span.begin : span.end) += static_cast<uintptr_t>(reach);
  }
  return span;
}

}  // namespace mrt
