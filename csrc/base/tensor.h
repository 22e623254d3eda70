// A view of a dense, contiguous tensor in host memory, as kernels and the executor see it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "maas_rt.h"

namespace mrt {

struct DType {
  uint8_t code;
  uint8_t bits;
  size_t bytes() const { return (static_cast<size_t>(bits) + 7) / 8; }
  // Of an element's address: kernels and generated functions count on it, and on no more.
  size_t alignment() const { return bytes() < 8 ? bytes() : 8; }
  bool operator==(const DType& o) const { return code == o.code && bits == o.bits; }
  bool operator!=(const DType& o) const { return !(*this == o); }
};
constexpr DType kFloat32{MRT_FLOAT, 32};
std::string name_of(DType dtype);  // "float32"; of a type that has none, its code and bits

struct Tensor {
  void* data = nullptr;
  const int64_t* shape = nullptr;
  int32_t ndim = 0;  // -1: absent
  DType dtype = kFloat32;
  size_t bytes = 0;  // of data; for packed weights this, not shape, says the size

  bool absent() const { return ndim < 0; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  // Product of shape[begin, end). Extents were checked against overflow when the shape was bound.
  int64_t extent(int32_t begin, int32_t end) const {
    int64_t n = 1;
    for (int32_t i = begin; i < end; ++i) n *= shape[i];
    return n;
  }
  int64_t elements() const { return extent(0, ndim); }
};

}  // namespace mrt
