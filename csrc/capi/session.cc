// mrt_session_* and mrt_cancel_*.
#include <memory>

#include "capi/async.h"
#include "capi/requests.h"

using mrt::fail;
using mrt::Status;

namespace {

// An asynchronous run.
struct AsyncRun {
  mrt::Session* session;
  mrt::RunRequest request;
  mrt::RunHold hold;
  mrt::CopiedInputs inputs;
  mrt_done_fn done;
  void* user;
};

void finish_async(void* argument) {
  AsyncRun* run = static_cast<AsyncRun*>(argument);
  const mrt_status status = mrt::guard([&] { return run->session->run(run->request); });
  const mrt_done_fn done = run->done;
  void* user = run->user;
  mrt::Session* session = run->session;
  delete run;  // gives session and state back, so that `done` may run them again
  done(user, status, mrt::error_text());
  session->release();
}

}  // namespace

extern "C" {

mrt_status mrt_session_create(mrt_program* program, const mrt_session_options* options, mrt_session** out) {
  return mrt::guard([&]() -> Status {
    if (!out) return mrt::null_argument("mrt_session_create", "out");
    *out = nullptr;
    mrt_session_options o;
    if (!mrt::read_options(options, &o)) return mrt::bad_options("mrt_session_options");
    mrt::Session* made = nullptr;
    MRT_TRY(mrt::make_session("mrt_session_create", program, o, &made));
    *out = reinterpret_cast<mrt_session*>(made);
    return Status();
  });
}

void mrt_session_free(mrt_session* session) {
  if (session) to_session(session)->release();
}

mrt_status mrt_session_run(mrt_session* session, const mrt_tensor* inputs, size_t input_count, mrt_tensor* outputs,
                           size_t output_count, const mrt_run_options* options) {
  return mrt::guard([&]() -> Status {
    if (!session) return mrt::null_argument("mrt_session_run", "session");
    mrt::RunRequest request;
    MRT_TRY(mrt::make_request("mrt_session_run", *to_session(session)->program(), inputs, input_count, outputs,
                              output_count, options, &request));
    mrt::RunHold hold;
    MRT_TRY(hold.take(to_session(session), request.state));
    return to_session(session)->run(request);
  });
}

mrt_status mrt_session_run_async(mrt_session* session, const mrt_tensor* inputs, size_t input_count,
                                 mrt_tensor* outputs, size_t output_count, const mrt_run_options* options,
                                 mrt_done_fn done, void* user) {
  return mrt::guard([&]() -> Status {
    if (!session) return mrt::null_argument("mrt_session_run_async", "session");
    if (!done) return mrt::null_argument("mrt_session_run_async", "done");
    std::unique_ptr<AsyncRun> run(new AsyncRun);
    MRT_TRY(mrt::make_request("mrt_session_run_async", *to_session(session)->program(), inputs, input_count, outputs,
                              output_count, options, &run->request));
    run->session = to_session(session);
    run->done = done;
    run->user = user;
    MRT_TRY(run->hold.take(run->session, run->request.state));
    run->inputs.copy(&run->request);
    AsyncRun* job = run.get();
    run->session->retain();  // the caller may free its reference meanwhile
    Status queued;
    try {
      queued = mrt::run_async(finish_async, job);
    } catch (...) {
      run->session->release();
      throw;
    }
    if (queued.ok())
      run.release();
    else
      run->session->release();
    return queued;
  });
}

size_t mrt_session_memory(const mrt_session* session) { return session ? to_session(session)->memory() : 0; }

mrt_status mrt_session_seed(const mrt_session* session, uint64_t* out) {
  return mrt::guard([&]() -> Status {
    if (!session || !out) return fail(MRT_ERROR_INVALID_ARGUMENT, "mrt_session_seed: session or out is NULL");
    if (to_session(session)->program()->seed() < 0)
      return fail(MRT_ERROR_INVALID_ARGUMENT, "the program draws no random numbers, so that its runs have no seed");
    const std::optional<uint64_t> seed = to_session(session)->seed();
    if (!seed) return fail(MRT_ERROR_INVALID_ARGUMENT, "no run of the session has drawn random numbers yet");
    *out = *seed;
    return Status();
  });
}

mrt_status mrt_session_profile(const mrt_session* session, const mrt_step_record** records, size_t* count) {
  return mrt::guard([&]() -> Status {
    if (!session || !records || !count)
      return fail(MRT_ERROR_INVALID_ARGUMENT, "mrt_session_profile: session, records or count is NULL");
    const mrt::Session& s = *to_session(session);
    if (!s.profiles())
      return fail(MRT_ERROR_INVALID_ARGUMENT, "the session does not profile; create it with the option profile = 1");
    *records = s.records().data();
    *count = s.records().size();
    return Status();
  });
}

mrt_status mrt_cancel_create(mrt_cancel** out) {
  return mrt::guard([&]() -> Status {
    if (!out) return mrt::null_argument("mrt_cancel_create", "out");
    *out = new mrt_cancel;
    return Status();
  });
}

void mrt_cancel_set(mrt_cancel* cancel) {
  if (cancel) cancel->set.store(true);
}
void mrt_cancel_clear(mrt_cancel* cancel) {
  if (cancel) cancel->set.store(false);
}
void mrt_cancel_free(mrt_cancel* cancel) { delete cancel; }

}  // extern "C"
