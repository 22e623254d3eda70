// Shapes of values at one binding of symbols.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "base/tensor.h"
#include "runtime/expr.h"
#include "runtime/program.h"

namespace mrt {

// Bytes of a dense tensor; false on overflow or above kMaxTensorBytes.
bool tensor_bytes(DType dtype, const int64_t* shape, size_t ndim, size_t* out);
// Evaluates the dims of a value into shape[0, n) and its row-major strides, in elements, into shape[n, 2 n); a sentence
// if a dim is unknown, negative, or too much.
Status value_shape(const Program& program, const Bindings& bindings, uint32_t value, int64_t* shape, size_t* bytes);
// Where a view begins, in bytes from its root.
Status view_offset(const Program& program, const Bindings& bindings, uint32_t value, size_t* out);

}  // namespace mrt
