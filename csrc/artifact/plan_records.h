// The enumerators and structs of plan.inc. No guard: included in the namespace that is to have them.
#define MRT_PLAN_VERSION(version) constexpr u32 kPlanVersion = version;
#define MRT_ENUM(Name) enum class Name : u8 {
#define MRT_VALUE(since, number, name) name = number,
#define MRT_END_ENUM(Name) \
  }                        \
  ;
#define MRT_RECORD(Name) struct Name {
#define MRT_FIELD(since, type, name, initial) type name = initial;
#define MRT_LIST(since, type, name) std::vector<type> name;
#define MRT_RECS(since, Record, name) std::vector<Record> name;
#define MRT_END(Name) \
  }                   \
  ;
#include "artifact/plan_expand.h"

// An enumerator's name, for messages; "?" for a number that is none.
#define MRT_ENUM(Name)                     \
  inline const char* name_of(Name value) { \
    switch (value) {
#define MRT_VALUE(since, number, name)       \
  case static_cast<decltype(value)>(number): \
    return #name;
#define MRT_END_ENUM(Name) \
  }                        \
  return "?";              \
  }
#include "artifact/plan_expand.h"
