#include "runtime/n_m.h"

#include <cstring>

namespace mrt {
namespace {

template <typename T>
const char* scatter(const NmLayout& l, const T* values, const uint8_t* indices, T* dense) {
  const int mask = (1 << l.bits) - 1;
  int64_t at = 0;
  for (int64_t group = 0; group < l.outer * l.groups; ++group, dense += l.m * l.inner) {
    for (int64_t i = 0; i < l.inner; ++i) {
      for (int64_t e = 0, last = -1; e < l.n; ++e, ++at) {
        const int64_t index = indices[at * l.bits / 8] >> (at * l.bits % 8) & mask;
        if (index >= l.m) return "has an index out of range";
        if (index <= last) return "has indices that do not rise";
        dense[index * l.inner + i] = values[at];
        last = index;
      }
    }
  }
  return nullptr;
}

}  // namespace

bool n_m_layout(const ExprTable& exprs, const plan::Value& value, const plan::Value& indices, NmLayout* out) {
  const size_t rank = value.dims.size();
  NmLayout l;
  l.bits = indices.dtype_bits;
  if (indices.dims.size() != rank + 1 || !exprs.constant(indices.dims[rank], &l.n)) return false;
  for (size_t axis = 0; axis < rank; ++axis) {
    int64_t dense = 0, stored = 0;
    if (!exprs.constant(value.dims[axis], &dense) || !exprs.constant(indices.dims[axis], &stored)) return false;
    if (dense == stored) {
      (l.m == 0 ? l.outer : l.inner) *= dense;
    } else if (l.m == 0 && stored > 0 && dense % stored == 0) {
      l.groups = stored;
      l.m = dense / stored;
    } else {
      return false;
    }
  }
  *out = l;
  return l.n > 0 && l.n < l.m && l.m <= 1 << l.bits;
}

const char* widen(const NmLayout& l, const void* values, const uint8_t* indices, size_t bytes, void* dense) {
  std::memset(dense, 0, l.dense_count() * bytes);
  const auto as = [&](auto element) {
    using T = decltype(element);
    return scatter(l, static_cast<const T*>(values), indices, static_cast<T*>(dense));
  };
  return bytes == 1 ? as(uint8_t{}) : bytes == 2 ? as(uint16_t{}) : as(uint32_t{});
}

}  // namespace mrt
