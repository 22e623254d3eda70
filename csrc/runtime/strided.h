// Copies between dense and strided tensors of the same shape and element size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "maas_rt.h"

namespace mrt {

// Whether strides (may be null) are those of row-major order; extents of 1 and empty tensors may have any.
inline bool is_contiguous(const int64_t* shape, const int64_t* strides, int32_t ndim) {
  if (!strides) return true;
  int64_t expected = 1;
  bool same = true;
  for (int32_t d = ndim - 1; d >= 0; --d) {
    if (shape[d] == 0) return true;
    if (shape[d] != 1 && strides[d] != expected) same = false;
    expected *= shape[d];
  }
  return same;
}

// Row by row: the innermost dimension in a loop, the others counted like an odometer.
template <bool kToDense>
void copy_strided(uint8_t* dense, uint8_t* strided, const int64_t* shape, const int64_t* strides, int32_t ndim,
                  size_t element) {
  for (int32_t d = 0; d < ndim; ++d)
    if (shape[d] == 0) return;
  int64_t index[MRT_MAX_RANK] = {0};
  const int64_t inner = ndim > 0 ? shape[ndim - 1] : 1;
  const int64_t step = (ndim > 0 ? strides[ndim - 1] : 1) * static_cast<int64_t>(element);
  for (;;) {
    uint8_t* at = strided;
    for (int32_t d = 0; d + 1 < ndim; ++d) at += index[d] * strides[d] * static_cast<int64_t>(element);
    if (step == static_cast<int64_t>(element)) {
      std::memcpy(kToDense ? dense : at, kToDense ? at : dense, static_cast<size_t>(inner) * element);
      dense += static_cast<size_t>(inner) * element;
    } else {
      for (int64_t i = 0; i < inner; ++i, at += step, dense += element)
        std::memcpy(kToDense ? dense : at, kToDense ? at : dense, element);
    }
    int32_t d = ndim - 2;
    while (d >= 0 && ++index[d] == shape[d]) index[d--] = 0;
    if (d < 0) return;
  }
}

}  // namespace mrt
