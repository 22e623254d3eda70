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

#include "artifact/plan_records.h"

// Every count, length and enumerator is checked; all bytes must be used up. What the plan's version lacks gets the
// initial value that plan.inc gives it. Only the structure is checked here, runtime/validate.h checks what it means.
Status decode(const uint8_t* data, size_t size, Plan* out);
// The bytes that decode() reads back as the same plan, which must have the newest version.
std::vector<uint8_t> encode(const Plan& plan);

}  // namespace plan
}  // namespace mrt
