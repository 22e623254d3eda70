// The sessions of a Runner, for those that run its program without arrays.
#pragma once

#include <memory>
#include <vector>

#include "program.h"

namespace maas_rt_python {

struct RunnerState {
  std::shared_ptr<Program> program;
  py::object program_object;
  int32_t threads = 0;
  bool exclusive = false;  // one session for good (Session), instead of one for each run at a time (Model)
  bool profile = false;
  std::vector<mrt_session*> idle;

  ~RunnerState();
};

// A session of the runner's, given back (or kept, if it is the only one) when the run is over. To be made and ended
// with the GIL, so that the pool needs no lock.
class Lease {
 public:
  // Without a session if there is none; a Python error is set then.
  explicit Lease(RunnerState& state);
  ~Lease();
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  mrt_session* session() const { return session_; }

 private:
  RunnerState& state_;
  mrt_session* session_ = nullptr;
};

// What a Runner, or an object of a class under it, runs. Null with a Python error set if it is none.
RunnerState* runner_state(PyObject* object);
// What asks whether a run on this thread has to end, given the Released around it; null where nothing can.
mrt_poll_fn interruption();

}  // namespace maas_rt_python
