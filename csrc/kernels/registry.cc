// The list of all operator contracts of this build.
#include <cstring>

#include "kernels/kernel.h"

namespace mrt {
namespace {

const Operator* const kOperators[] = {
#define MRT_OPERATOR(contract) &kOperator_##contract,
#include "kernels/registry.inc"
#undef MRT_OPERATOR
};
constexpr size_t kCount = sizeof(kOperators) / sizeof(kOperators[0]);

}  // namespace

const Operator* const* operators(size_t* count) {
  *count = kCount;
  return kOperators;
}

const Operator* find_operator(const char* contract) {
  for (const Operator* op : kOperators)
    if (std::strcmp(op->contract->name, contract) == 0) return op;
  return nullptr;
}

}  // namespace mrt
