// What the stages of validation share: the plan, and what the stages before found out about it.
#pragma once

#include <vector>

#include "artifact/plan.h"
#include "base/status.h"
#include "runtime/expr.h"
#include "runtime/validate.h"

namespace mrt {

struct Validation {
  const plan::Plan& plan;
  size_t weights_size;
  ExprTable exprs;
  std::vector<uint32_t> root;  // of each value: itself, or what a view leads to in the end
  std::vector<uint32_t> used;  // of each block: by how many steps
};

// In this order; each relies on those before it.
Status check_tables(Validation* v);         // symbols, expressions, values, states
Status check_steps(Validation* v);          // what a step of each kind needs
Status check_entries(const Validation& v);  // definitions before uses

// Bytes of a value whose dims are constants.
Status fixed_bytes(const Validation& v, const plan::Value& value, int64_t* out);
// Whether a constant holds what its shape says; packed weights need not.
bool holds_its_shape(const Validation& v, const plan::Value& value);

// printf-style, behind "the plan is damaged: ".
#if defined(__GNUC__)
__attribute__((format(printf, 1, 2), cold))
#endif
Status damaged(const char* format, ...);

#define MRT_CHECK(condition, ...)                         \
  do {                                                    \
    if (!(condition)) return ::mrt::damaged(__VA_ARGS__); \
  } while (0)

}  // namespace mrt
