// What a process sees: no allocation in a steady run, many threads, asynchronous runs, forks, hooks, kernels by name.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "base/cpu.h"
#include "base/thread_pool.h"
#include "kernels/kernel.h"
#include "runtime/issued.h"
#include "tests/check.h"
#include "tests/file_builder.h"

using namespace mrt;
using namespace mrt::test;
using plan::ExprOp;
using plan::StepKind;
using plan::Storage;

// ---- counting allocations ----

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MRT_COUNTS_ALLOCATIONS 0
#else
#define MRT_COUNTS_ALLOCATIONS 1
static std::atomic<int64_t> g_allocations{0};
static thread_local int64_t t_fail_in = 0;  // this thread's allocation that fails: the n-th from now; 0: none
static bool fails_now() {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  return t_fail_in > 0 && --t_fail_in == 0;
}
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void* malloc(size_t n) { return fails_now() ? nullptr : __libc_malloc(n); }
void* calloc(size_t n, size_t m) { return fails_now() ? nullptr : __libc_calloc(n, m); }
void* realloc(void* p, size_t n) { return fails_now() ? nullptr : __libc_realloc(p, n); }
void* aligned_alloc(size_t alignment, size_t n) { return fails_now() ? nullptr : __libc_memalign(alignment, n); }
}
#endif

namespace {

// Kernels, generated functions with workspaces, a branch, a loop with a dynamic scan, sizes that data decide.
PlanBuilder everything() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n"), k = p.symbol("k"), trips = p.symbol("trips");
  const uint32_t c = p.constant("c", {2}, {10, 20}), zero = p.constant("zero", {1}, {0});
  const uint32_t three = p.constant("three", {}, std::vector<int64_t>{3}, MRT_INT, 64);
  const uint32_t yes = p.constant("yes", {}, std::vector<uint8_t>{1}, MRT_BOOL, 8);
  const uint32_t more = p.expr(ExprOp::add, p.of(n), p.fixed(2));
  const uint32_t x = p.value("x", Storage::input, {p.of(n)});
  const uint32_t joined = p.value("joined", Storage::arena, {more}), y = p.value("y", Storage::arena, {more});
  const uint32_t count = p.value("count", Storage::arena, {}, MRT_INT, 64);
  const uint32_t chosen = p.value("chosen", Storage::arena, {p.of(k)});
  const uint32_t flag = p.value("flag", Storage::arena, {}, MRT_BOOL, 8);
  const uint32_t picked = p.value("picked", Storage::arena, {p.fixed(1)});
  const uint32_t i = p.value("i", Storage::arena, {}, MRT_INT, 64), a = p.value("a", Storage::arena, {p.fixed(1)});
  const uint32_t sum = p.value("sum", Storage::arena, {p.fixed(1)});
  const uint32_t last = p.value("last", Storage::arena, {p.fixed(1)});
  const uint32_t all = p.value("all", Storage::arena, {p.of(trips), p.fixed(1)});
  const uint32_t head = p.view("head", joined, {p.fixed(1)}, p.fixed(0));
  const uint32_t main = p.block("main"), then = p.block("then"), other = p.block("other"), body = p.block("body");
  p.concat(main, "join", {x, c}, joined);
  p.code(main, "scale", {joined}, {y}, {p.fixed(2)});
  p.code(main, "count_positive", {y}, {count});
  p.step(main, StepKind::bind, "size", "", {count}, {}).binds = {k};
  p.code(main, "take_positive", {y}, {chosen});
  p.code(main, "less", {zero, c}, {flag});
  p.step(main, StepKind::branch, "choose", "", {flag}, {picked}).blocks = {then, other};
  p.plan.blocks[then].results = {head};
  p.plan.blocks[other].results = {zero};
  plan::Step& loop = p.step(main, StepKind::loop, "loop", "", {}, {last, all});
  loop.args = {{plan::ArgKind::absent, 0}, {plan::ArgKind::value, three}, {plan::ArgKind::value, picked}};
  loop.blocks = {body};
  loop.binds = {trips};
  p.plan.blocks[body].params = {i, a};
  p.code(body, "add", {a, head}, {sum});
  p.plan.blocks[body].results = {yes, sum, a};
  p.entry("main", {x}, {y, chosen, last, all}, main);
  p.with_code();
  return p;
}

struct Case {
  std::vector<float> x;
  std::vector<int64_t> shape;
  explicit Case(size_t n) : x(n, 1.5f), shape{static_cast<int64_t>(n)} {}
  // The status alone: results lie in the session's memory, which another thread may be running in by then.
  mrt_status run_only(mrt_session* session, mrt_tensor (&out)[4], const mrt_run_options* options = nullptr) {
    const mrt_tensor in = tensor(x.data(), shape);
    return mrt_session_run(session, &in, 1, out, 4, options);
  }
  mrt_status run(mrt_session* session, const mrt_run_options* options = nullptr) {
    mrt_tensor out[4] = {};
    const mrt_status status = run_only(session, out, options);
    if (status != MRT_OK) return status;
    const float* y = static_cast<const float*>(out[0].data);
    const int64_t n = shape[0];
    const bool good = out[0].shape[0] == n + 2 && y[0] == (n > 0 ? 3.0f : 20.0f) && y[n + 1] == 40 &&
                      out[1].shape[0] == n + 2 && out[3].shape[0] == 3;
    return good ? MRT_OK : MRT_ERROR_INTERNAL;
  }
};

}  // namespace

#if MRT_COUNTS_ALLOCATIONS
TEST(process, steady_runs_allocate_nothing) {
  for (const int32_t threads : {1, 2}) {
    mrt_session_options options = {sizeof(options), threads, 0, 0};
    Loaded l(everything().file(), &options);
    CHECK_OK(l.status);
    Case small(3), large(3000);
    for (int i = 0; i < 3; ++i) {
      CHECK_OK(small.run(l.session));
      CHECK_OK(large.run(l.session));
    }
    const int64_t before = g_allocations.load();
    for (int i = 0; i < 50; ++i) {
      CHECK_OK(small.run(l.session));
      CHECK_OK(small.run(l.session));
      CHECK_OK(large.run(l.session));
    }
    CHECK_EQ(g_allocations.load() - before, int64_t{0});
  }
  // The counter counts.
  const int64_t before = g_allocations.load();
  void* volatile memory = std::malloc(16);
  std::free(memory);
  CHECK(g_allocations.load() > before);
}
#endif

#if MRT_COUNTS_ALLOCATIONS
// Each allocation of loading, creating and running fails once: always a status with a sentence, never a crash, and what
// was made before still works.
TEST(process, every_allocation_may_fail) {
  PlanBuilder p;
  const uint32_t n = p.symbol("n"), trips = p.symbol("trips");
  const uint32_t c = p.constant("c", {2}, {10, 20});
  const uint32_t three = p.constant("three", {}, std::vector<int64_t>{3}, MRT_INT, 64);
  const uint32_t yes = p.constant("yes", {}, std::vector<uint8_t>{1}, MRT_BOOL, 8);
  const uint32_t x = p.value("x", Storage::input, {p.of(n)});
  const uint32_t more = p.expr(ExprOp::add, p.of(n), p.fixed(2));
  const uint32_t y = p.value("y", Storage::arena, {more}), i = p.value("i", Storage::arena, {}, MRT_INT, 64);
  const uint32_t all = p.value("all", Storage::arena, {p.of(trips), more});
  const uint32_t main = p.block("main"), body = p.block("body");
  p.concat(main, "join", {x, c}, y);
  plan::Step& loop = p.step(main, StepKind::loop, "loop", "", {}, {all});
  loop.args = {{plan::ArgKind::absent, 0}, {plan::ArgKind::value, three}};
  loop.blocks = {body};
  loop.binds = {trips};
  p.plan.blocks[body].params = {i};
  p.plan.blocks[body].results = {yes, y};
  p.entry("main", {x}, {y, all}, main);
  const AlignedBytes bytes(p.file());
  float data[3] = {1, 2, 3};
  const std::vector<int64_t> shape = {3};
  const mrt_tensor in = tensor(data, shape);
  mrt_program* program = nullptr;
  mrt_session* session = nullptr;
  const auto attempt = [&](int64_t fail_at, const auto& call) {
    t_fail_in = fail_at;
    const mrt_status status = call();
    const bool reached = t_fail_in == 0;
    t_fail_in = 0;
    if (status != MRT_OK) {
      CHECK(reached);
      CHECK_EQ(status, MRT_ERROR_OUT_OF_MEMORY);
      CHECK(*mrt_last_error() != '\0');
    }
    return status == MRT_OK && !reached;
  };
  int64_t loads = 1, runs = 1;
  while (!attempt(loads, [&] {
    mrt_program_free(program);
    return mrt_program_load_memory(bytes.data(), bytes.size(), nullptr, nullptr, nullptr, &program);
  }))
    ++loads;
  for (int64_t k = 1; !attempt(k,
                               [&] {
                                 mrt_session_free(session);
                                 return mrt_session_create(program, nullptr, &session);
                               });
       ++k) {
  }
  while (!attempt(runs, [&] {
    mrt_tensor out[2] = {};
    return mrt_session_run(session, &in, 1, out, 2, nullptr);
  }))
    ++runs;
  CHECK(loads > 20 && runs > 5);
  mrt_tensor out[2] = {};
  CHECK_OK(mrt_session_run(session, &in, 1, out, 2, nullptr));
  CHECK(out[1].shape[0] == 3 && static_cast<float*>(out[1].data)[14] == 20);
  mrt_session_free(session);
  mrt_program_free(program);
}
#endif

TEST(process, many_threads_one_program) {
  Loaded l(everything().file());
  CHECK_OK(l.status);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 6; ++t)
    threads.emplace_back([&, t] {
      mrt_session* session = nullptr;
      mrt_session_options options = {sizeof(options), static_cast<int32_t>(1 + t % 2), 0, 2};
      if (mrt_session_create(l.program, &options, &session) != MRT_OK) ++wrong;
      for (size_t i = 0; i < 30; ++i) wrong += Case(1 + (t + i) % 5 * 100).run(session) != MRT_OK;
      mrt_session_free(session);
    });
  for (std::thread& t : threads) t.join();
  CHECK_EQ(wrong.load(), 0);
}

TEST(process, a_session_is_busy_while_it_runs) {
  Loaded l(everything().file());
  std::atomic<int> ok{0}, busy{0}, other{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      Case c(2000);
      for (int i = 0; i < 50; ++i) {
        mrt_tensor out[4] = {};
        const mrt_status status = c.run_only(l.session, out);
        ++(status == MRT_OK ? ok : status == MRT_ERROR_BUSY ? busy : other);
      }
    });
  for (std::thread& t : threads) t.join();
  CHECK_EQ(other.load(), 0);
  CHECK(ok.load() >= 1);
  CHECK_EQ(ok.load() + busy.load(), 200);
}

namespace {
struct Waiter {
  std::mutex mutex;
  std::condition_variable ready;
  int done = 0;
  mrt_status status = MRT_ERROR_INTERNAL;
  std::string message;
  static void call(void* user, mrt_status status, const char* message) {
    Waiter* w = static_cast<Waiter*>(user);
    std::lock_guard<std::mutex> lock(w->mutex);
    w->status = status;
    w->message = message;
    ++w->done;
    w->ready.notify_all();
  }
  void wait() {
    std::unique_lock<std::mutex> lock(mutex);
    ready.wait(lock, [&] { return done > 0; });
  }
};
}  // namespace

TEST(process, asynchronous_runs) {
  Loaded l(everything().file());
  for (int round = 0; round < 20; ++round) {
    Waiter waiter;
    Case c(100);
    mrt_tensor out[4] = {};
    {
      // Shapes are read before the call returns; data is not.
      const std::vector<int64_t> shape = {100};
      const mrt_tensor in = tensor(c.x.data(), shape);
      CHECK_OK(mrt_session_run_async(l.session, &in, 1, out, 4, nullptr, Waiter::call, &waiter));
    }
    waiter.wait();
    CHECK_EQ(waiter.status, MRT_OK);
    CHECK_EQ(waiter.message, "");
    CHECK(out[0].shape[0] == 102);
  }
  Waiter waiter;
  float x[2] = {0};
  const std::vector<int64_t> shape = {1, 2};
  const mrt_tensor in = tensor(x, shape);
  mrt_tensor out[4] = {};
  CHECK_OK(mrt_session_run_async(l.session, &in, 1, out, 4, nullptr, Waiter::call, &waiter));
  waiter.wait();
  CHECK_EQ(waiter.status, MRT_ERROR_SHAPE);
  CHECK_SAYS(waiter.message, "input 'x'");
  CHECK_EQ(mrt_session_run_async(l.session, &in, 1, out, 4, nullptr, nullptr, nullptr), MRT_ERROR_INVALID_ARGUMENT);
}

// The caller may free its reference while the run is under way; `done` is still called.
TEST(process, session_freed_during_an_asynchronous_run) {
  Loaded l(everything().file());
  mrt_session* session = nullptr;
  CHECK_OK(mrt_session_create(l.program, nullptr, &session));
  Waiter waiter;
  Case c(5000);
  const mrt_tensor in = tensor(c.x.data(), c.shape);
  mrt_tensor out[4] = {};
  CHECK_OK(mrt_session_run_async(session, &in, 1, out, 4, nullptr, Waiter::call, &waiter));
  mrt_session_free(session);
  waiter.wait();
  CHECK_EQ(waiter.status, MRT_OK);
}

// A worker of the pool has begun. Sanitizers hold locks of theirs while a thread begins, and a child of a fork in that
// moment waits for them for ever.
void begin_worker() {
  if (cpu_count() < 2) return;
  std::atomic<int> present{0};
  ThreadPool::process()->parallel(2, 2, [&](int32_t, int32_t) {
    present.fetch_add(1);
    while (present.load() < 2) std::this_thread::yield();
  });
}

TEST(process, runs_after_fork) {
  mrt_session_options options = {sizeof(options), 2, 0, 0};
  Loaded l(everything().file(), &options);
  Case c(1000);
  CHECK_OK(c.run(l.session));
  begin_worker();
  const pid_t child = fork();
  if (child == 0) {
    int wrong = 0;
    for (int i = 0; i < 10; ++i) wrong += c.run(l.session) != MRT_OK;
    Waiter waiter;
    const mrt_tensor in = tensor(c.x.data(), c.shape);
    mrt_tensor out[4] = {};
    wrong += mrt_session_run_async(l.session, &in, 1, out, 4, nullptr, Waiter::call, &waiter) != MRT_OK;
    waiter.wait();
    _exit(wrong + (waiter.status != MRT_OK));
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK_OK(c.run(l.session));
}

#if MRT_COUNTS_ALLOCATIONS  // a sanitizer's allocator is left locked by a fork while another thread allocates
// Whatever another thread did in that moment, records of outputs are had in the child: every session has some.
TEST(process, forks_while_records_are_taken) {
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop.load()) give_back_issued(take_issued());
  });
  int wrong = 0;
  for (int i = 0; i < 200; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(10);
      for (int k = 0; k < 10; ++k) give_back_issued(take_issued());
      _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    wrong += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    if (wrong) break;
  }
  stop.store(true);
  other.join();
  CHECK_EQ(wrong, 0);
}
#endif

// In a child, because hooks are set before the first load and for good.
TEST(process, hooks) {
  const std::vector<uint8_t> file = everything().file();
  const pid_t child = fork();
  if (child == 0) {
    static std::atomic<int> allocated{0}, freed{0}, parallel{0};
    mrt_hooks hooks = {};
    hooks.struct_size = sizeof(hooks);
    hooks.alloc = [](void*, size_t bytes, size_t alignment) {
      ++allocated;
      return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    };
    const mrt_status half = mrt_set_hooks(&hooks);  // alloc without free
    if (half != MRT_ERROR_INVALID_ARGUMENT && half != MRT_ERROR_BUSY) _exit(2);
    hooks.free = [](void*, void* p, size_t) {
      ++freed;
      std::free(p);
    };
    hooks.parallel = [](void*, mrt_task_fn task, void* user, int32_t count) {
      ++parallel;
      for (int32_t i = count; i-- > 0;) task(user, i);
    };
    const mrt_status first = mrt_set_hooks(&hooks);
    // Run alone the hooks are accepted, after other tests' loads they come too late.
    if (first == MRT_ERROR_BUSY) _exit(0);
    {
      mrt_session_options options = {sizeof(options), 2, 0, 0};
      Loaded l(file, &options);
      Case c(1000);
      if (first != MRT_OK || l.status != MRT_OK || c.run(l.session) != MRT_OK) _exit(3);
      if (mrt_set_hooks(&hooks) != MRT_ERROR_BUSY) _exit(4);
    }
    if (allocated == 0 || allocated != freed) _exit(5);
    _exit(mrt_cpu_count() > 1 && parallel == 0 ? 6 : 0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 0);
}

TEST(process, isa_from_the_environment) {
  char path[4096] = {};
  CHECK(readlink("/proc/self/exe", path, sizeof(path) - 1) > 0);
  const std::string self = path;
  const std::vector<uint8_t> file = everything().file();
  for (const std::string isa : {"scalar", "avx2", "avx512", "neon", "dotprod", "i8mm", "nonsense"}) {
    int pipes[2];
    CHECK(pipe(pipes) == 0);
    const pid_t child = fork();
    if (child == 0) {
      // A new process image: the choice is made once.
      setenv("MAAS_RT_ISA", isa.c_str(), 1);
      dup2(pipes[1], 1);
      execl("/bin/sh", "sh", "-c", "exec " MRT_EMULATOR " \"$0\" isa_child.load", self.c_str(),
            static_cast<char*>(nullptr));
      _exit(9);
    }
    close(pipes[1]);
    std::string text;
    char c = 0;
    while (read(pipes[0], &c, 1) == 1) text += c;
    close(pipes[0]);
    int status = -1;
    waitpid(child, &status, 0);
    const bool runs = isa_names(cpu_features()).find("'" + isa + "'") != std::string::npos;
    CHECK_SAYS(text, runs ? "isa=" + isa + " loaded" : "refused: MAAS_RT_ISA is '" + isa + "'");
  }
}

TEST(isa_child, load) {
  Loaded l(everything().file());
  if (l.status == MRT_OK)
    std::printf("isa=%s loaded\n", mrt_cpu_isa());
  else
    std::printf("refused: %s\n", l.message.c_str());
}

TEST(process, kernels_by_name) {
  CHECK_SAYS(mrt_kernels_json(), "\"concat\":{\"attributes\":{\"axis\":{\"kind\":\"integers\"");
  CHECK_SAYS(mrt_kernels_json(), "\"kernels\":[{\"isa\":\"scalar\",\"name\":\"concat_scalar\"}]");
  float a[2] = {1, 2}, b[1] = {3}, y[3] = {0};
  const std::vector<int64_t> two = {2}, one = {1}, three = {3};
  const mrt_tensor in[2] = {tensor(a, two), tensor(b, one)};
  mrt_tensor out = tensor(y, three);
  const int64_t axis = 0;
  const mrt_attr attr = {"axis", &axis, nullptr, nullptr, 1};
  for (const char* isa : {"", "reference", "scalar"}) {
    std::memset(y, 0, sizeof(y));
    CHECK_OK(mrt_kernel_run("concat", isa, in, 2, &out, 1, &attr, 1, 1));
    CHECK(y[0] == 1 && y[2] == 3);
  }
  CHECK_EQ(mrt_kernel_run("concat", "sse9", in, 2, &out, 1, &attr, 1, 1), MRT_ERROR_TARGET);
  CHECK_EQ(mrt_kernel_run("none", "", in, 2, &out, 1, &attr, 1, 1), MRT_ERROR_INVALID_ARGUMENT);
  CHECK(mrt_kernel_run("concat", "", in, 1, &out, 1, &attr, 1, 1) != MRT_OK);  // shapes do not add up
  size_t bytes = 0;
  CHECK_EQ(mrt_kernel_packed_bytes("concat", "x", in, nullptr, 0, &bytes), MRT_ERROR_INVALID_ARGUMENT);
}

TEST(process, status_names) {
  CHECK_EQ(std::string(mrt_status_name(MRT_ERROR_SHAPE)), "MRT_ERROR_SHAPE");
  CHECK_EQ(std::string(mrt_status_name(12345)), "MRT_ERROR_UNKNOWN");
  CHECK_EQ(std::string(mrt_version()), "0.1.0");
}
