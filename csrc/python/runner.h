// The sessions of a Runner, for those that run its program without arrays.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "program.h"

namespace maas_rt_python {

struct RunnerState {
  std::shared_ptr<Program> program;
  py::object program_object;
  mrt_session* session = nullptr;  // the one for good (Session), or ...
  mrt_pool* pool = nullptr;        // ... one for each run at a time (Model), of which ...
  mrt_session* at_hand =
      nullptr;  // ... the last stays here: with the GIL to guard it, a run of a microsecond saves some
  bool profile = false;

  ~RunnerState();
};

// A session of the runner's for one run. Taken and given back with the GIL.
class Lease {
 public:
  // Without a session if there is none; a Python error is set then.
  explicit Lease(RunnerState& state) : state_(state), session_(state.session) {
    if (session_) return;
    std::swap(session_, state.at_hand);
    if (session_) return;
    const mrt_status status = mrt_pool_take(state.pool, &session_);
    if (status != MRT_OK) set_status_error(status);
  }
  ~Lease() {
    if (state_.session) return;
    std::swap(session_, state_.at_hand);
    if (session_) mrt_pool_give(state_.pool, session_);
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  mrt_session* session() const { return session_; }

 private:
  RunnerState& state_;
  mrt_session* session_;
};

// What a Runner, or an object of a class under it, runs. Null with a Python error set if it is none.
RunnerState* runner_state(PyObject* object);
// What asks whether a run on this thread has to end, given the Released around it; null where nothing can.
mrt_poll_fn interruption();

}  // namespace maas_rt_python
