// mrt_state_*.
#include "capi/boundary.h"
#include "capi/handles.h"

using mrt::fail;
using mrt::Status;

namespace {

// Holds the state for the length of one call.
class Hold {
 public:
  explicit Hold(mrt::State* state) : state_(state), acquired_(state->acquire()) {}
  ~Hold() {
    if (acquired_) state_->give_back();
  }
  Status status() const {
    return acquired_ ? Status() : fail(MRT_ERROR_BUSY, "the state is in use by a run; wait until it has ended");
  }

 private:
  mrt::State* state_;
  bool acquired_;
};

}  // namespace

extern "C" {

mrt_status mrt_state_create(mrt_program* program, mrt_state** out) {
  return mrt::guard([&]() -> Status {
    if (!out) return mrt::null_argument("mrt_state_create", "out");
    *out = nullptr;
    if (!program) return mrt::null_argument("mrt_state_create", "program");
    std::unique_ptr<mrt::State> state;
    MRT_TRY(mrt::State::create(to_program(program), &state));
    *out = reinterpret_cast<mrt_state*>(state.release());
    return Status();
  });
}

mrt_status mrt_state_clone(const mrt_state* state, mrt_state** out) {
  return mrt::guard([&]() -> Status {
    if (!out) return mrt::null_argument("mrt_state_clone", "out");
    *out = nullptr;
    if (!state) return mrt::null_argument("mrt_state_clone", "state");
    const Hold hold(to_state(state));
    MRT_TRY(hold.status());
    std::unique_ptr<mrt::State> copy;
    MRT_TRY(to_state(state)->clone(&copy));
    *out = reinterpret_cast<mrt_state*>(copy.release());
    return Status();
  });
}

mrt_status mrt_state_reset(mrt_state* state) {
  return mrt::guard([&]() -> Status {
    if (!state) return mrt::null_argument("mrt_state_reset", "state");
    const Hold hold(to_state(state));
    MRT_TRY(hold.status());
    to_state(state)->reset();
    return Status();
  });
}

mrt_status mrt_state_value(mrt_state* state, int32_t index, mrt_tensor* out) {
  return mrt::guard([&]() -> Status {
    if (!state || !out) return fail(MRT_ERROR_INVALID_ARGUMENT, "mrt_state_value: no state or out");
    const mrt::State& s = *to_state(state);
    const auto& infos = s.program()->states();
    const size_t i = static_cast<size_t>(index);
    if (index < 0 || i >= infos.size())
      return fail(MRT_ERROR_INVALID_ARGUMENT, "state value %d does not exist, there are %zu", index, infos.size());
    *out = {s.data(i), {infos[i].dtype.code, infos[i].dtype.bits, 1}, s.ndim(i), s.shape(i), nullptr, s.bytes(i)};
    return Status();
  });
}

void mrt_state_free(mrt_state* state) { delete to_state(state); }

}  // extern "C"
