// What runs on sessions and on pools have in common: their requests, checked, and what they hold while they run.
#pragma once

#include <memory>
#include <vector>

#include "capi/boundary.h"
#include "capi/handles.h"

namespace mrt {

// Session and state, held for one run.
class RunHold {
 public:
  RunHold() = default;
  RunHold(const RunHold&) = delete;
  RunHold& operator=(const RunHold&) = delete;
  ~RunHold() {
    if (state_) state_->give_back();
    if (session_) session_->give_back();
  }
  Status take(Session* session, State* state) {
    if (!session->acquire())
      return fail(MRT_ERROR_BUSY, "the session is in use by another run; wait for it or create a second session");
    session_ = session;
    return take(state);
  }
  Status take(State* state) {
    if (state && !state->acquire())
      return fail(MRT_ERROR_BUSY, "the state is in use by another run; wait for it or clone the state");
    state_ = state;
    return Status();
  }

 private:
  Session* session_ = nullptr;
  State* state_ = nullptr;
};

// `function` is named in what is said. Here, because the run of a small model takes less than a microsecond.
inline Status make_request(const char* function, const Program& program, const mrt_tensor* inputs, size_t input_count,
                           mrt_tensor* outputs, size_t output_count, const mrt_run_options* options, RunRequest* out) {
  if ((!inputs && input_count > 0) || (!outputs && output_count > 0))
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: inputs or outputs are NULL but their count is not 0", function);
  mrt_run_options o;
  if (!read_options(options, &o)) return bad_options("mrt_run_options");
  if (o.entry < 0 || static_cast<size_t>(o.entry) >= program.entries().size())
    return fail(MRT_ERROR_INVALID_ARGUMENT, "entry %d does not exist, the program has %zu", o.entry,
                program.entries().size());
  State* state = o.state ? to_state(o.state) : nullptr;
  if (state && state->program() != &program)
    return fail(MRT_ERROR_INVALID_ARGUMENT, "the state was created for another program");
  *out = {inputs,
          input_count,
          outputs,
          output_count,
          static_cast<uint32_t>(o.entry),
          state,
          o.seeded != 0 ? std::optional<uint64_t>(o.seed) : std::nullopt,
          {o.cancel ? &o.cancel->set : nullptr, o.deadline_ns, o.poll, o.poll_user},
          o.exact_outputs != 0};
  return Status();
}

// The inputs' descriptions of a request, copied, since the caller's are gone when it runs.
class CopiedInputs {
 public:
  void copy(RunRequest* request);

 private:
  std::vector<mrt_tensor> inputs_;
  std::vector<int64_t> extents_;
};

// A new session with options that were checked.
Status make_session(const char* function, mrt_program* program, const mrt_session_options& options, Session** out);

}  // namespace mrt
