#include "artifact/plan.h"

#include <cstring>
#include <utility>

#include "artifact/plan_cursor.h"

namespace mrt {
namespace plan {
namespace {

#include "artifact/plan_codec.h"

}  // namespace

Status decode(const uint8_t* data, size_t size, Plan* out) { return decode_plan(data, size, out); }

std::vector<uint8_t> encode(const Plan& plan) {
  Bytes bytes;
  write(bytes, plan);
  return bytes;
}

}  // namespace plan
}  // namespace mrt
