// What plan.inc promises about versions, held on records that have had two.
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "artifact/plan.h"
#include "artifact/plan_cursor.h"
#include "tests/check.h"

namespace mrt {
namespace {

#undef MRT_PLAN_INC
#define MRT_PLAN_INC "tests/records_1.inc"
namespace first {
using plan::f64;
using plan::i64;
using plan::str;
using plan::u32;
using plan::u8;
// clang-format off
#include "artifact/plan_records.h"
#include "artifact/plan_codec.h"
// clang-format on
}  // namespace first

#undef MRT_PLAN_INC
#define MRT_PLAN_INC "tests/records_2.inc"
namespace second {
using plan::f64;
using plan::i64;
using plan::str;
using plan::u32;
using plan::u8;
// clang-format off
#include "artifact/plan_records.h"
#include "artifact/plan_codec.h"
// clang-format on
}  // namespace second

using Bytes = std::vector<uint8_t>;

Bytes first_bytes() {
  first::Plan plan;
  plan.things = {{"a", first::Colour::green}, {"b", first::Colour::red}};
  plan.last = 99;
  Bytes bytes;
  first::write(bytes, plan);
  return bytes;
}

Bytes second_bytes(second::Colour colour) {
  second::Plan plan;
  second::Thing thing;
  thing.name = "a";
  thing.colour = colour;
  thing.weight = -3;
  thing.tags = {4, 5};
  thing.marks.resize(2);
  plan.things = {thing};
  Bytes bytes;
  second::write(bytes, plan);
  return bytes;
}

Bytes relabelled(Bytes bytes, uint32_t version) {
  std::memcpy(bytes.data(), &version, 4);
  return bytes;
}

std::string first_says(const Bytes& bytes) {
  first::Plan plan;
  const Status status = first::decode_plan(bytes.data(), bytes.size(), &plan);
  return status.ok() ? "(read)" : status.message();
}

std::string second_says(const Bytes& bytes) {
  second::Plan plan;
  const Status status = second::decode_plan(bytes.data(), bytes.size(), &plan);
  return status.ok() ? "(read)" : status.message();
}

}  // namespace

TEST(plan_versions, an_older_plan_gets_initial_values) {
  const Bytes bytes = first_bytes();
  second::Plan plan;
  CHECK_OK(second::decode_plan(bytes.data(), bytes.size(), &plan));
  CHECK_EQ(plan.version, 1u);
  CHECK_EQ(plan.last, 99u);
  CHECK_EQ(plan.things.size(), 2u);
  const second::Thing& thing = plan.things[0];
  CHECK_EQ(thing.name, "a");
  CHECK(thing.colour == second::Colour::green);
  CHECK_EQ(thing.weight, 7);
  CHECK(thing.edge == second::Colour::green);
  CHECK_EQ(thing.note, "none");
  CHECK(thing.tags.empty() && thing.marks.empty());
}

TEST(plan_versions, the_newest_is_read_back_as_written) {
  const Bytes bytes = second_bytes(second::Colour::blue);
  second::Plan plan;
  CHECK_OK(second::decode_plan(bytes.data(), bytes.size(), &plan));
  CHECK_EQ(plan.things[0].weight, -3);
  CHECK_EQ(plan.things[0].marks[1].share, 0.5);
  Bytes again;
  second::write(again, plan);
  CHECK(again == bytes);
}

TEST(plan_versions, a_newer_plan_is_refused_by_its_version) {
  CHECK_SAYS(first_says(second_bytes(second::Colour::red)), "version 2, this runtime reads up to 1");
  CHECK_SAYS(first_says(relabelled(first_bytes(), 0)), "its version is 0");
}

TEST(plan_versions, a_record_that_is_not_of_its_version_is_damage) {
  CHECK_SAYS(first_says(relabelled(second_bytes(second::Colour::red), 1)), "damaged");  // longer
  CHECK_SAYS(second_says(relabelled(second_bytes(second::Colour::red), 1)), "damaged");
  CHECK_SAYS(second_says(relabelled(first_bytes(), 2)), "damaged");  // shorter
}

TEST(plan_versions, an_enumerator_of_a_later_version_is_damage) {
  Bytes bytes = first_bytes();
  bytes[4 + 4 + 4 + 1] = 2;  // version, count, "a" and its length; then the colour
  CHECK_SAYS(first_says(bytes), "'colour' is no Colour of its version");
  CHECK_SAYS(second_says(bytes), "'colour' is no Colour of its version");
  CHECK_EQ(std::string(second::name_of(second::Colour::blue)), "blue");
}

}  // namespace mrt
