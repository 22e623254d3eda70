// Pools: sessions for many callers, and a bounded queue of runs that begin in time or not at all.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <ctime>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/cpu.h"
#include "tests/check.h"
#include "tests/file_builder.h"

using namespace mrt;
using namespace mrt::test;

namespace {

// x [n] -> y [2 n]: x twice.
PlanBuilder twice() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n");
  const uint32_t x = p.value("x", plan::Storage::input, {p.of(n)});
  const uint32_t y = p.value("y", plan::Storage::arena, {p.expr(plan::ExprOp::add, p.of(n), p.of(n))});
  const uint32_t main = p.block("main");
  p.concat(main, "join", {x, x}, y);
  p.entry("main", {x}, {y}, main);
  return p;
}

struct Pooled {
  explicit Pooled(int32_t kept = 0, int32_t waiting = 0) : loaded(twice().file()) {
    mrt_pool_options options = {sizeof(options), 1, 0, kept, waiting};
    status = mrt_pool_create(loaded.program, &options, &pool);
  }
  ~Pooled() { mrt_pool_free(pool); }
  Loaded loaded;
  mrt_pool* pool = nullptr;
  mrt_status status;
};

int64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

// One run and what became of it. `hold`: its thread goes on when the gate is opened.
struct Run {
  static inline std::mutex mutex;
  static inline std::condition_variable changed;
  static inline bool open = true;

  std::vector<float> x{1, 2, 3};
  std::vector<int64_t> shape{3};
  mrt_tensor out{};
  bool hold = false;
  int entered = 0, done = 0;
  mrt_status status = MRT_ERROR_INTERNAL;
  std::string message;
  float last = 0;

  mrt_status start(mrt_pool* pool, const mrt_run_options* options = nullptr) {
    const mrt_tensor in = tensor(x.data(), shape);
    return mrt_pool_submit(pool, &in, 1, &out, 1, options, finished, this);
  }
  static void finished(void* user, mrt_status status, const char* message) {
    Run* run = static_cast<Run*>(user);
    std::unique_lock<std::mutex> lock(mutex);
    run->status = status;
    run->message = message;
    if (status == MRT_OK) run->last = static_cast<float*>(run->out.data)[2 * run->shape[0] - 1];
    ++run->entered;
    changed.notify_all();
    if (run->hold) changed.wait(lock, [] { return open; });
    ++run->done;
    changed.notify_all();
  }
  void wait_entered() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return entered > 0; });
  }
  void wait() {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return done > 0; });
  }
};

// While it lives all threads of the queue are held in `done` of a run.
class Busy {
 public:
  explicit Busy(mrt_pool* pool) : runs_(static_cast<size_t>(cpu_count())) {
    Run::open = false;
    for (Run& run : runs_) {
      run.hold = true;
      CHECK_OK(run.start(pool));
    }
    for (Run& run : runs_) run.wait_entered();
  }
  ~Busy() { end(); }
  void end() {
    {
      std::lock_guard<std::mutex> lock(Run::mutex);
      Run::open = true;
      Run::changed.notify_all();
    }
    for (Run& run : runs_) run.wait();
  }

 private:
  std::vector<Run> runs_;
};

}  // namespace

TEST(session_pool, sessions_are_taken_and_given_back) {
  Pooled p(2);
  CHECK_OK(p.status);
  mrt_session* first = nullptr;
  CHECK_OK(mrt_pool_take(p.pool, &first));
  mrt_pool_give(p.pool, first);
  std::set<mrt_session*> taken;
  for (int i = 0; i < 5; ++i) {
    mrt_session* session = nullptr;
    CHECK_OK(mrt_pool_take(p.pool, &session));
    CHECK(taken.insert(session).second);
    float x[2] = {1, 2};
    const std::vector<int64_t> shape = {2};
    const mrt_tensor in = tensor(x, shape);
    mrt_tensor out{};
    CHECK_OK(mrt_session_run(session, &in, 1, &out, 1, nullptr));
    CHECK_EQ(static_cast<float*>(out.data)[3], 2.0f);
  }
  CHECK(taken.count(first) == 1);
  CHECK_EQ(mrt_pool_memory(p.pool), size_t{0});
  for (mrt_session* session : taken) mrt_pool_give(p.pool, session);  // two are kept
  CHECK(mrt_pool_memory(p.pool) > 0);
}

TEST(session_pool, many_threads_share_it) {
  Pooled p(3);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t)
    threads.emplace_back([&, t] {
      std::vector<float> x(static_cast<size_t>(1 + t), static_cast<float>(t));
      const std::vector<int64_t> shape = {1 + t};
      const mrt_tensor in = tensor(x.data(), shape);
      for (int i = 0; i < 200; ++i) {
        mrt_session* session = nullptr;
        mrt_tensor out{};
        wrong += mrt_pool_take(p.pool, &session) != MRT_OK;
        wrong += mrt_session_run(session, &in, 1, &out, 1, nullptr) != MRT_OK;
        wrong += static_cast<float*>(out.data)[2 * t + 1] != static_cast<float>(t);
        mrt_pool_give(p.pool, session);
      }
    });
  for (std::thread& t : threads) t.join();
  CHECK_EQ(wrong.load(), 0);
}

// One that another thread frees meanwhile, since its slots are taken, is not looked at: `make sanitize` would see it.
TEST(session_pool, its_memory_is_asked_for_while_it_is_used) {
  Pooled p(1);
  std::atomic<int> wrong{0}, working{3};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        mrt_session* session = nullptr;
        wrong += mrt_pool_take(p.pool, &session) != MRT_OK;
        std::this_thread::yield();  // others fill the pool meanwhile, and the session is freed
        mrt_pool_give(p.pool, session);
      }
      --working;
    });
  while (working.load()) wrong += mrt_pool_memory(p.pool) > size_t{1} << 30;
  for (std::thread& t : threads) t.join();
  CHECK_EQ(wrong.load(), 0);
}

TEST(session_pool, runs_wait_in_order_and_are_bounded) {
  Pooled p(0, 3);
  Run waiting[3], one_more;
  {
    Busy busy(p.pool);
    for (Run& run : waiting) CHECK_OK(run.start(p.pool));
    CHECK_EQ(one_more.start(p.pool), MRT_ERROR_BUSY);
    CHECK_SAYS(mrt_last_error(), "3 runs wait in this pool");
    busy.end();
  }
  for (Run& run : waiting) {
    run.wait();
    CHECK_OK(run.status);
    CHECK_EQ(run.last, 3.0f);
  }
  CHECK_OK(one_more.start(p.pool));
  one_more.wait();
  CHECK_OK(one_more.status);
}

TEST(session_pool, what_is_late_or_cancelled_is_not_begun) {
  Pooled p;
  mrt_cancel* cancel = nullptr;
  CHECK_OK(mrt_cancel_create(&cancel));
  Run late, cancelled, good;
  {
    Busy busy(p.pool);
    mrt_run_options options{};
    options.struct_size = sizeof(options);
    options.deadline_ns = now_ns() + 1000;
    CHECK_OK(late.start(p.pool, &options));
    options.deadline_ns = 0;
    options.cancel = cancel;
    CHECK_OK(cancelled.start(p.pool, &options));
    options.cancel = nullptr;
    options.deadline_ns = now_ns() + int64_t{60000000000};
    CHECK_OK(good.start(p.pool, &options));
    mrt_cancel_set(cancel);
    busy.end();
  }
  late.wait();
  cancelled.wait();
  good.wait();
  CHECK_EQ(late.status, MRT_ERROR_DEADLINE);
  CHECK_SAYS(late.message, "before the run began");
  CHECK_EQ(cancelled.status, MRT_ERROR_CANCELLED);
  CHECK_OK(good.status);
  mrt_cancel_free(cancel);
}

TEST(session_pool, freed_while_runs_wait) {
  auto* p = new Pooled;
  Run waiting;
  {
    Busy busy(p->pool);
    CHECK_OK(waiting.start(p->pool));
    delete p;  // the runs under way end as they do
    busy.end();
  }
  waiting.wait();
  CHECK_EQ(waiting.status, MRT_ERROR_CANCELLED);
  CHECK_SAYS(waiting.message, "pool was freed");
}

TEST(session_pool, what_a_run_refuses_is_told) {
  Pooled p;
  Run wrong;
  wrong.shape = {1, 3};
  CHECK_OK(wrong.start(p.pool));
  wrong.wait();
  CHECK_EQ(wrong.status, MRT_ERROR_SHAPE);
  CHECK_SAYS(wrong.message, "input 'x'");
  Run run;
  const mrt_tensor in = tensor(run.x.data(), run.shape);
  CHECK_EQ(mrt_pool_submit(p.pool, &in, 1, &run.out, 1, nullptr, nullptr, nullptr), MRT_ERROR_INVALID_ARGUMENT);
  CHECK_EQ(mrt_pool_submit(nullptr, &in, 1, &run.out, 1, nullptr, Run::finished, &run), MRT_ERROR_INVALID_ARGUMENT);
  mrt_run_options options{};
  options.struct_size = sizeof(options);
  options.entry = 7;
  CHECK_EQ(run.start(p.pool, &options), MRT_ERROR_INVALID_ARGUMENT);
  CHECK_EQ(mrt_pool_take(p.pool, nullptr), MRT_ERROR_INVALID_ARGUMENT);
  mrt_pool_give(p.pool, nullptr);
  mrt_pool_free(nullptr);
  mrt_pool* none = nullptr;
  CHECK_EQ(mrt_pool_create(nullptr, nullptr, &none), MRT_ERROR_INVALID_ARGUMENT);
  for (const int32_t kept : {-1, 5000}) {
    mrt_pool_options wrong_options = {sizeof(wrong_options), 1, 0, kept, 0};
    CHECK_EQ(mrt_pool_create(p.loaded.program, &wrong_options, &none), MRT_ERROR_INVALID_ARGUMENT);
    CHECK_SAYS(mrt_last_error(), "kept");
  }
  mrt_pool_options threads = {sizeof(threads), -1, 0, 0, 0};
  CHECK_EQ(mrt_pool_create(p.loaded.program, &threads, &none), MRT_ERROR_INVALID_ARGUMENT);
  CHECK_SAYS(mrt_last_error(), "threads");
}

// In a child, which has none of the parent's threads, and as a user for whom the limit holds.
TEST(session_pool, no_thread_can_be_started) {
  Pooled p;
  const pid_t child = fork();
  if (child == 0) {
    const rlimit none = {0, 0};
    if (geteuid() == 0 && setuid(65534) != 0) _exit(77);
    if (setrlimit(RLIMIT_NPROC, &none) != 0) _exit(77);
    Run run;
    int wrong = run.start(p.pool) != MRT_ERROR_OUT_OF_MEMORY;
    wrong += !std::strstr(mrt_last_error(), "no thread can be started for asynchronous runs; raise the limit");
    const size_t idle = mrt_pool_memory(p.pool);
    mrt_session* session = nullptr;
    wrong += mrt_pool_take(p.pool, &session) != MRT_OK || mrt_pool_memory(p.pool) > idle;
    _exit(wrong);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 0);
}

// What waits in the parent is the parent's; the child has all places, and the idle sessions.
TEST(session_pool, goes_on_in_a_child) {
  Pooled p(0, 2);
  Run waiting[2];
  int status = -1;
  {
    Busy busy(p.pool);
    for (Run& run : waiting) CHECK_OK(run.start(p.pool));
    const pid_t child = fork();
    if (child == 0) {
      int wrong = 0;
      Run::open = true;
      new (&Run::mutex) std::mutex;  // a thread of the parent's may have held it
      new (&Run::changed) std::condition_variable;
      Run own[2];
      for (Run& run : own) wrong += run.start(p.pool) != MRT_OK;
      for (Run& run : own) {
        run.wait();
        wrong += run.status != MRT_OK;
      }
      mrt_session* session = nullptr;
      wrong += mrt_pool_take(p.pool, &session) != MRT_OK;
      _exit(wrong);
    }
    waitpid(child, &status, 0);
    busy.end();
  }
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  for (Run& run : waiting) {
    run.wait();
    CHECK_OK(run.status);
  }
}
