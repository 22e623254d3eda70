// mrt_session_* and mrt_cancel_*.
#include <cstdio>
#include <memory>
#include <vector>

#include "base/cpu.h"
#include "base/hooks.h"
#include "capi/async.h"
#include "capi/boundary.h"
#include "capi/handles.h"

using mrt::fail;
using mrt::Status;

namespace {

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
  Status take(mrt::Session* session, mrt::State* state) {
    if (!session->acquire())
      return fail(MRT_ERROR_BUSY, "the session is in use by another run; wait for it or create a second session");
    session_ = session;
    if (state && !state->acquire())
      return fail(MRT_ERROR_BUSY, "the state is in use by another run; wait for it or clone the state");
    state_ = state;
    return Status();
  }

 private:
  mrt::Session* session_ = nullptr;
  mrt::State* state_ = nullptr;
};

Status make_request(mrt_session* session, const mrt_tensor* inputs, size_t input_count, mrt_tensor* outputs,
                    size_t output_count, const mrt_run_options* options, mrt::RunRequest* out) {
  if (!session) return mrt::null_argument("mrt_session_run", "session");
  if ((!inputs && input_count > 0) || (!outputs && output_count > 0))
    return fail(MRT_ERROR_INVALID_ARGUMENT, "mrt_session_run: inputs or outputs are NULL but their count is not 0");
  mrt_run_options o;
  if (!mrt::read_options(options, &o)) return mrt::bad_options("mrt_run_options");
  const mrt::Program& program = *to_session(session)->program();
  if (o.entry < 0 || static_cast<size_t>(o.entry) >= program.entries().size())
    return fail(MRT_ERROR_INVALID_ARGUMENT, "entry %d does not exist, the program has %zu", o.entry,
                program.entries().size());
  mrt::State* state = o.state ? to_state(o.state) : nullptr;
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

// An asynchronous run with its own copy of the inputs' descriptions.
struct AsyncRun {
  mrt::Session* session;
  mrt::RunRequest request;
  RunHold hold;
  std::vector<mrt_tensor> inputs;
  std::vector<int64_t> extents;
  mrt_done_fn done;
  void* user;

  void copy_inputs(const mrt_tensor* from, size_t count) {
    size_t total = 0;
    for (size_t i = 0; i < count; ++i)
      if (from[i].ndim > 0 && from[i].ndim <= MRT_MAX_RANK) total += 2 * static_cast<size_t>(from[i].ndim);
    inputs.assign(from, from + count);
    extents.reserve(total);
    for (mrt_tensor& t : inputs) {
      if (t.ndim <= 0 || t.ndim > MRT_MAX_RANK) continue;
      for (const int64_t** list : {&t.shape, &t.strides}) {
        if (!*list) continue;
        const int64_t* copy = extents.data() + extents.size();
        extents.insert(extents.end(), *list, *list + t.ndim);
        *list = copy;
      }
    }
    request.inputs = inputs.data();
  }
};

void finish_async(AsyncRun* run) {
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
    if (!program) return mrt::null_argument("mrt_session_create", "program");
    mrt_session_options o;
    if (!mrt::read_options(options, &o)) return mrt::bad_options("mrt_session_options");
    if (o.threads < 0 || o.layout_cache < 0)
      return fail(MRT_ERROR_INVALID_ARGUMENT, "session option %s is %d, expected 0 or more",
                  o.threads < 0 ? "threads" : "layout_cache", o.threads < 0 ? o.threads : o.layout_cache);
    MRT_TRY(to_program(program)->check_unchanged());
    int32_t threads = o.threads > 0 ? o.threads : mrt::cpu_count();
    if (threads > mrt::cpu_count()) {
      char message[120];
      std::snprintf(message, sizeof(message), "threads lowered from %d to %d, the CPUs of this process", threads,
                    mrt::cpu_count());
      mrt::log(MRT_LOG_INFO, message);
      threads = mrt::cpu_count();
    }
    *out =
        reinterpret_cast<mrt_session*>(new mrt::Session(to_program(program), threads, o.profile != 0, o.layout_cache));
    return Status();
  });
}

void mrt_session_free(mrt_session* session) {
  if (session) to_session(session)->release();
}

mrt_status mrt_session_run(mrt_session* session, const mrt_tensor* inputs, size_t input_count, mrt_tensor* outputs,
                           size_t output_count, const mrt_run_options* options) {
  return mrt::guard([&]() -> Status {
    mrt::RunRequest request;
    MRT_TRY(make_request(session, inputs, input_count, outputs, output_count, options, &request));
    RunHold hold;
    MRT_TRY(hold.take(to_session(session), request.state));
    return to_session(session)->run(request);
  });
}

mrt_status mrt_session_run_async(mrt_session* session, const mrt_tensor* inputs, size_t input_count,
                                 mrt_tensor* outputs, size_t output_count, const mrt_run_options* options,
                                 mrt_done_fn done, void* user) {
  return mrt::guard([&]() -> Status {
    if (!done) return mrt::null_argument("mrt_session_run_async", "done");
    std::unique_ptr<AsyncRun> run(new AsyncRun);
    MRT_TRY(make_request(session, inputs, input_count, outputs, output_count, options, &run->request));
    run->session = to_session(session);
    run->done = done;
    run->user = user;
    MRT_TRY(run->hold.take(run->session, run->request.state));
    run->copy_inputs(inputs, input_count);
    AsyncRun* job = run.get();
    run->session->retain();  // the caller may free its reference meanwhile
    try {
      mrt::run_async([job] { finish_async(job); });
    } catch (...) {
      run->session->release();
      throw;
    }
    run.release();
    return Status();
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
