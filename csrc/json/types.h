// The element types of JSON tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "number.h"

namespace maas_rt_json {

enum class Type {
  kBool,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kHalf,
  kBfloat,
  kFloat,
  kDouble
};

template <typename T>
struct Is {
  using type = T;
};

// Calls f with the C++ type of a Type, as an Is<T>.
template <typename F>
auto with_type(Type type, F f) {
  switch (type) {
    case Type::kBool:
      return f(Is<bool>());
    case Type::kInt8:
      return f(Is<int8_t>());
    case Type::kInt16:
      return f(Is<int16_t>());
    case Type::kInt32:
      return f(Is<int32_t>());
    case Type::kInt64:
      return f(Is<int64_t>());
    case Type::kUint8:
      return f(Is<uint8_t>());
    case Type::kUint16:
      return f(Is<uint16_t>());
    case Type::kUint32:
      return f(Is<uint32_t>());
    case Type::kUint64:
      return f(Is<uint64_t>());
    case Type::kHalf:
      return f(Is<Half>());
    case Type::kBfloat:
      return f(Is<Bfloat>());
    case Type::kFloat:
      return f(Is<float>());
    case Type::kDouble:
      break;
  }
  return f(Is<double>());
}

}  // namespace maas_rt_json
