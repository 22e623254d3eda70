// The sums of a panel's columns as rows of y.
#pragma once

#include "kernels/gemm/dense.h"

namespace mrt {

// y[row, row + rows) of the panel's columns = epilogue(sums [rows][16]), which are lost.
void finish_panel(const DenseParams& p, const DenseOperands& o, int64_t panel, int64_t row, int64_t rows, float* sums);

}  // namespace mrt
