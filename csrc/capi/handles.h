// What the opaque types of the C API are.
#pragma once

#include <atomic>

#include "runtime/program.h"
#include "runtime/session.h"
#include "runtime/state.h"

// A program is its own handle: casts are the whole conversion.
inline mrt::Program* to_program(const mrt_program* p) {
  return reinterpret_cast<mrt::Program*>(const_cast<mrt_program*>(p));
}
inline mrt::Session* to_session(const mrt_session* s) {
  return reinterpret_cast<mrt::Session*>(const_cast<mrt_session*>(s));
}
inline mrt::State* to_state(const mrt_state* s) { return reinterpret_cast<mrt::State*>(const_cast<mrt_state*>(s)); }

struct mrt_cancel {
  std::atomic<bool> set{false};
};
