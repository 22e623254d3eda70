// The order of a row's entries in packings of bytes.
#pragma once

#include "kernels/sparse/pack.h"

namespace mrt {

// Sorts entries by kind (qmultiply.h), for activations of at most a_max.
struct SparsePairs {
  int64_t a_max;
  void operator()(SparseRow<int8_t>* row) const;
};

}  // namespace mrt
