// Tensors in the words of messages.
#pragma once

#include <string>

#include "base/tensor.h"
#include "runtime/program.h"

namespace mrt {

std::string shape_text(const int64_t* shape, int32_t ndim);  // "[1, 3, 224]"
std::string declared_text(const ValueText& value);           // "[n, 3, 224]"

}  // namespace mrt
