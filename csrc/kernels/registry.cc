// The list of all operator contracts of this build: one line each, sorted by contract name.
#include <cstring>

#include "kernels/kernel.h"

namespace mrt {

extern const Operator kGemmF32Operator;

namespace {

const Operator* const kOperators[] = {
    &kGemmF32Operator,
    nullptr,  // keeps the list a valid array while it is empty
};
constexpr size_t kCount = sizeof(kOperators) / sizeof(kOperators[0]) - 1;

}  // namespace

const Operator* const* operators(size_t* count) {
  *count = kCount;
  return kOperators;
}

const Operator* find_operator(const char* contract) {
  for (size_t i = 0; i < kCount; ++i)
    if (std::strcmp(kOperators[i]->contract, contract) == 0) return kOperators[i];
  return nullptr;
}

}  // namespace mrt
