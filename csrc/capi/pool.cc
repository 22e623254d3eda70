// mrt_pool_*: sessions of one program for many callers at once, and a bounded queue of runs.
#include <ctime>
#include <memory>
#include <vector>

#include "capi/async.h"
#include "capi/requests.h"

using mrt::fail;
using mrt::Status;

namespace mrt {
namespace {

constexpr int32_t kKept = 16;       // idle sessions, after a burst of callers
constexpr int32_t kWaiting = 1024;  // asynchronous runs

// Idle sessions lie in slots that are taken and filled by one exchange each: no lock that a fork could leave locked,
// and the first is the one that was used last, whose memory is warm.
class Pool {
 public:
  Pool(const mrt_session_options& session, int32_t kept, int32_t waiting)
      : session_(session), most_(waiting), slots_(static_cast<size_t>(kept)) {}

  void retain() { references_.fetch_add(1, std::memory_order_relaxed); }
  void release() {
    if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  // Makes the first session, and keeps the program by it.
  Status open(mrt_program* program) {
    Session* first = nullptr;
    MRT_TRY(make_session("mrt_pool_create", program, session_, &first));
    program_ = to_program(program);
    program_->retain();
    give(first);
    return Status();
  }
  Program* program() const { return program_; }

  Session* take_idle() {
    for (std::atomic<Session*>& slot : slots_) {
      if (!slot.load(std::memory_order_relaxed)) continue;
      if (Session* session = slot.exchange(nullptr, std::memory_order_acquire)) return session;
    }
    return nullptr;
  }
  Status take(Session** out) {
    *out = take_idle();
    if (*out) return Status();
    return make_session("mrt_pool", reinterpret_cast<mrt_program*>(program_), session_, out);
  }
  void give(Session* session) {
    for (std::atomic<Session*>& slot : slots_) {
      Session* none = nullptr;
      if (slot.load(std::memory_order_relaxed)) continue;
      if (slot.compare_exchange_strong(none, session, std::memory_order_release, std::memory_order_relaxed)) return;
    }
    session->release();
  }

  // A place in the queue, until `leave`.
  bool enter() {
    const int32_t generation = async_generation();
    if (generation_.exchange(generation) != generation) waiting_.store(0);  // what waited is the parent's
    if (waiting_.fetch_add(1) < most_) return true;
    waiting_.fetch_sub(1);
    return false;
  }
  void leave() { waiting_.fetch_sub(1); }
  int32_t most() const { return most_; }

  void close() { closed_.store(true); }
  bool closed() const { return closed_.load(); }

  // Each is taken to be looked at: one that lies in its slot may be another caller's, and freed by him, at any moment.
  size_t memory() {
    size_t bytes = 0;
    for (std::atomic<Session*>& slot : slots_) {
      if (!slot.load(std::memory_order_relaxed)) continue;
      if (Session* session = slot.exchange(nullptr, std::memory_order_acquire)) {
        bytes += session->memory();
        give(session);
      }
    }
    return bytes;
  }

 private:
  ~Pool() {
    for (std::atomic<Session*>& slot : slots_) {
      if (Session* session = slot.exchange(nullptr)) session->release();
    }
    if (program_) program_->release();
  }

  const mrt_session_options session_;
  const int32_t most_;
  std::vector<std::atomic<Session*>> slots_;
  Program* program_ = nullptr;
  std::atomic<int32_t> references_{1}, waiting_{0}, generation_{async_generation()};
  std::atomic<bool> closed_{false};
};

int64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

// A run that waits, and then is under way.
struct PoolRun {
  Pool* pool;
  RunRequest request;
  RunHold hold;  // the state alone
  CopiedInputs inputs;
  mrt_done_fn done;
  void* user;

  Status check_due() const {
    if (pool->closed()) return fail(MRT_ERROR_CANCELLED, "the pool was freed before the run began");
    const RunControl& control = request.control;
    if (control.cancel && control.cancel->load()) return fail(MRT_ERROR_CANCELLED, "the run was cancelled");
    if (control.deadline_ns && now_ns() >= control.deadline_ns)
      return fail(MRT_ERROR_DEADLINE, "the deadline had passed before the run began");
    return Status();
  }
};

void finish(void* argument) {
  PoolRun* run = static_cast<PoolRun*>(argument);
  Pool* pool = run->pool;
  pool->leave();
  Session* session = nullptr;
  const mrt_status status = guard([&]() -> Status {
    MRT_TRY(run->check_due());
    MRT_TRY(pool->take(&session));
    return session->run(run->request);
  });
  const mrt_done_fn done = run->done;
  void* user = run->user;
  delete run;  // gives the state back, so that `done` may run it again
  done(user, status, error_text());
  if (session) pool->give(session);
  pool->release();
}

Pool* to_pool(const mrt_pool* pool) { return reinterpret_cast<Pool*>(const_cast<mrt_pool*>(pool)); }

}  // namespace
}  // namespace mrt

extern "C" {

mrt_status mrt_pool_create(mrt_program* program, const mrt_pool_options* options, mrt_pool** out) {
  return mrt::guard([&]() -> Status {
    if (!out) return mrt::null_argument("mrt_pool_create", "out");
    *out = nullptr;
    mrt_pool_options o;
    if (!mrt::read_options(options, &o)) return mrt::bad_options("mrt_pool_options");
    if (o.kept < 0 || o.kept > 4096 || o.waiting < 0)
      return fail(MRT_ERROR_INVALID_ARGUMENT, "pool option %s is %d, expected %s", o.waiting < 0 ? "waiting" : "kept",
                  o.waiting < 0 ? o.waiting : o.kept, o.waiting < 0 ? "0 or more" : "0 to 4096");
    mrt_session_options session{};
    session.struct_size = sizeof(session);
    session.threads = o.threads;
    session.layout_cache = o.layout_cache;
    auto* pool = new mrt::Pool(session, o.kept ? o.kept : mrt::kKept, o.waiting ? o.waiting : mrt::kWaiting);
    try {
      const Status status = pool->open(program);
      if (!status.ok()) {
        pool->release();
        return status;
      }
    } catch (...) {
      pool->release();
      throw;
    }
    *out = reinterpret_cast<mrt_pool*>(pool);
    return Status();
  });
}

void mrt_pool_free(mrt_pool* pool) {
  if (!pool) return;
  mrt::to_pool(pool)->close();
  mrt::to_pool(pool)->release();
}

mrt_status mrt_pool_take(mrt_pool* pool, mrt_session** out) {
  if (pool && out) {
    *out = reinterpret_cast<mrt_session*>(mrt::to_pool(pool)->take_idle());
    if (*out) return MRT_OK;
  }
  return mrt::guard([&]() -> Status {
    if (!pool || !out) return fail(MRT_ERROR_INVALID_ARGUMENT, "mrt_pool_take: pool or out is NULL");
    mrt::Session* session = nullptr;
    MRT_TRY(mrt::to_pool(pool)->take(&session));
    *out = reinterpret_cast<mrt_session*>(session);
    return Status();
  });
}

void mrt_pool_give(mrt_pool* pool, mrt_session* session) {
  if (pool && session) mrt::to_pool(pool)->give(to_session(session));
}

mrt_status mrt_pool_submit(mrt_pool* pool, const mrt_tensor* inputs, size_t input_count, mrt_tensor* outputs,
                           size_t output_count, const mrt_run_options* options, mrt_done_fn done, void* user) {
  return mrt::guard([&]() -> Status {
    if (!pool) return mrt::null_argument("mrt_pool_submit", "pool");
    if (!done) return mrt::null_argument("mrt_pool_submit", "done");
    mrt::Pool* p = mrt::to_pool(pool);
    std::unique_ptr<mrt::PoolRun> run(new mrt::PoolRun);
    MRT_TRY(mrt::make_request("mrt_pool_submit", *p->program(), inputs, input_count, outputs, output_count, options,
                              &run->request));
    run->pool = p;
    run->done = done;
    run->user = user;
    MRT_TRY(run->hold.take(run->request.state));
    run->inputs.copy(&run->request);
    if (!p->enter())
      return fail(MRT_ERROR_BUSY, "%d runs wait in this pool, the most that may; wait for one", p->most());
    mrt::PoolRun* job = run.get();
    p->retain();
    const auto take_back = [p] {
      p->leave();
      p->release();
    };
    Status queued;
    try {
      queued = mrt::run_async(mrt::finish, job);
    } catch (...) {
      take_back();
      throw;
    }
    if (queued.ok())
      run.release();
    else
      take_back();
    return queued;
  });
}

size_t mrt_pool_memory(const mrt_pool* pool) { return pool ? mrt::to_pool(pool)->memory() : 0; }

}  // extern "C"
