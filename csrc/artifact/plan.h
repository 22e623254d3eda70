// The plan section as structs, and both directions of its codec, all expanded from plan.inc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace mrt {
namespace plan {

using u8 = uint8_t;
using u32 = uint32_t;
using i64 = int64_t;
using f64 = double;
using str = std::string;

enum class ExprOp : u8 {
  constant,
  symbol,
  add,
  sub,
  mul,
  floordiv,
  floormod,
  min,
  max,
  eq,
  lt,
  le,
  logical_and,
  logical_or,
  logical_not,
  ceildiv
};
constexpr u8 kExprOpCount = 16;
enum class ValueKind : u8 { tensor, optional, sequence, string, state };
enum class Storage : u8 { arena, input, constant, view, state, seed };
enum class ArgKind : u8 { value, expression, absent };
enum class StepKind : u8 { kernel, code, copy, bind, branch, loop, launch, shape };

constexpr u32 kPlanVersion = 1;

#define MRT_RECORD(Name) struct Name {
#define MRT_FIELD(type, name) type name{};
#define MRT_LIST(type, name) std::vector<type> name;
#define MRT_REC(Record, name) Record name;
#define MRT_RECS(Record, name) std::vector<Record> name;
#define MRT_END(Name) \
  }                   \
  ;
#include "artifact/plan_expand.h"

// Every count and length is checked against what is left of the bytes; all of them must be used up. Only the structure
// is checked here, runtime/validate.h checks what it means.
Status decode(const uint8_t* data, size_t size, Plan* out);
// The bytes that decode() reads back as the same plan.
std::vector<uint8_t> encode(const Plan& plan);

}  // namespace plan
}  // namespace mrt
