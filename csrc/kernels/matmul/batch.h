// Batch dimensions of products of two run-time operands: all but the last two of each, broadcast as numpy does.
#pragma once

#include "kernels/checks.h"

namespace mrt {

// Whether y's batch dimensions are those of a and b, broadcast.
Status check_batch(const char* contract, const Tensor& a, const Tensor& b, const Tensor& y);
// Which of an operand's matrices product number `index` of y uses.
int64_t matrix_of(const Tensor& t, const Tensor& y, int64_t index);

}  // namespace mrt
