// 8-bit products as their formula: what every kernel of them is tested against.
#pragma once

#include "kernels/qgemm/blocked.h"

namespace mrt {

// One element of y from its exact sum of (a - a_zero) * (w - w_zero).
void q_reference_element(const QFinishCall& f, int64_t sum, int64_t row, int64_t column);

// y [m, n]; a [m, k]; w packed as gemm_u8s8_nr16_v2, its zero points null or [n].
void qgemm_reference(const QFinishCall& f, int64_t m, int64_t n, int64_t k, const uint8_t* a, int64_t a_zero,
                     const char* w, const int8_t* w_zero);

}  // namespace mrt
