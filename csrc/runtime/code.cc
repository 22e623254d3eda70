#include "runtime/code.h"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>

#include "base/thread_pool.h"
#include "runtime/workspace.h"

namespace mrt {
namespace {

thread_local int32_t t_threads = 1, t_pieces = 1;
thread_local Watch* t_watch = nullptr;
thread_local char t_error[512];

struct ParallelEnv {
  void* sync;
  int32_t num_task;
};
using ParallelBody = int (*)(int32_t task, ParallelEnv* env, void* data);

// The workspace of this thread, and the one of the parallel loop whose task it runs, if any.
thread_local Workspace t_workspace;
thread_local Workspace* t_task_workspace = nullptr;

void* alloc_workspace(int, int, uint64_t bytes, int, int) {
  return (t_task_workspace ? t_task_workspace : &t_workspace)->take(bytes);
}
int free_workspace(int, int, void* pointer) {
  if (pointer) (t_task_workspace ? t_task_workspace : &t_workspace)->give_back(pointer);
  return 0;
}

// Workspaces for the tasks of parallel loops belong to the thread that launches them, not to the workers: which worker
// gets a task is chance, and the first task that comes to it late must not allocate.
struct TaskWorkspace {
  Workspace workspace;
  std::atomic<bool> in_use{false};
};
struct TaskWorkspaces {
  std::unique_ptr<TaskWorkspace[]> slots;
  int32_t count = 0;

  bool reserve(int32_t wanted) {
    if (wanted <= count) return true;
    slots.reset(new (std::nothrow) TaskWorkspace[static_cast<size_t>(wanted)]);
    count = slots ? wanted : 0;
    return count > 0;
  }
  // As many tasks run at a time as there are slots, so one is free.
  TaskWorkspace* take() const {
    for (int32_t i = 0;; i = i + 1 < count ? i + 1 : 0)
      if (!slots[i].in_use.exchange(true, std::memory_order_acquire)) return &slots[i];
  }
  // What one task needed, any slot may have to hold in the next run.
  void level() const {
    size_t peak = 0;
    for (int32_t i = 0; i < count; ++i) peak = slots[i].workspace.peak() > peak ? slots[i].workspace.peak() : peak;
    for (int32_t i = 0; i < count; ++i) slots[i].workspace.prepare(peak);
  }
};
thread_local TaskWorkspaces t_task_workspaces;

struct Launch {
  ParallelBody body;
  void* data;
  ParallelEnv env;
  const TaskWorkspaces* workspaces;
  Watch* watch;
  std::atomic<int> failures;
  char error[sizeof(t_error)];
};

void run_task(void* user, int32_t, int32_t task) {
  Launch* l = static_cast<Launch*>(user);
  if (l->watch && l->watch->stop()) return;
  TaskWorkspace* slot = l->workspaces->take();
  Workspace* const outer = t_task_workspace;
  Watch* const outer_watch = t_watch;
  t_task_workspace = &slot->workspace;
  t_watch = l->watch;
  const int rc = l->body(task, &l->env, l->data);
  t_watch = outer_watch;
  t_task_workspace = outer;
  slot->in_use.store(false, std::memory_order_release);
  if (rc == 0) return;
  if (l->failures.fetch_add(1) == 0) std::memcpy(l->error, t_error, sizeof(t_error));
  t_error[0] = '\0';
}

// num_task 0: as many tasks as the session has threads, or more where the work is long. A task's error moves to the
// thread that launched; so does a run that has to end.
int parallel_launch(ParallelBody body, void* data, int32_t num_task) {
  ParallelEnv env{nullptr, num_task > 0 ? num_task : t_watch && t_pieces > t_threads ? t_pieces : t_threads};
  if (env.num_task <= 1 || t_threads <= 1 || t_task_workspace) {
    // One thread, or a loop inside of a task: the tasks in order, here.
    for (int32_t task = 0; task < env.num_task; ++task) {
      if (t_watch && t_watch->stop()) return -1;
      if (const int rc = body(task, &env, data)) return rc;
    }
    return 0;
  }
  if (!t_task_workspaces.reserve(t_threads)) {
    std::snprintf(t_error, sizeof(t_error), "no memory for the workspaces of a parallel loop");
    return -1;
  }
  Launch launch{body, data, env, &t_task_workspaces, t_watch, {0}, {0}};
  ThreadPool::process()->run(env.num_task, t_threads, run_task, &launch);
  t_task_workspaces.level();
  if (t_watch && t_watch->stopped()) return -1;
  if (launch.failures.load() == 0) return 0;
  std::memcpy(t_error, launch.error, sizeof(t_error));
  return -1;
}

// Long loops ask between two iterations: not 0, the function is to return an error, whatever it says.
int stopped() { return t_watch && t_watch->stop(); }

// "kind: part part part" on one line.
void set_raised(const char* kind, const char** parts, int32_t count) {
  size_t used = 0;
  const auto append = [&](const char* text) {
    for (; text && *text && used + 1 < sizeof(t_error); ++text)
      t_error[used++] = static_cast<unsigned char>(*text) < ' ' ? ' ' : *text;
  };
  append(kind ? kind : "Error");
  append(": ");
  for (int32_t i = 0; i < count; ++i) append(parts[i]);
  t_error[used] = '\0';
}

}  // namespace

// The C interfaces of FORMAT.md, in its order.
void* const kCodeHost[kCodeHostCount] = {
    reinterpret_cast<void*>(parallel_launch), reinterpret_cast<void*>(alloc_workspace),
    reinterpret_cast<void*>(free_workspace),  reinterpret_cast<void*>(set_raised),
    reinterpret_cast<void*>(stopped),
};

CodeRun::CodeRun(int32_t threads, Watch* watch) : outer_threads_(t_threads), outer_watch_(t_watch) {
  t_threads = threads;
  t_watch = watch->active() ? watch : nullptr;
}
CodeRun::~CodeRun() {
  t_threads = outer_threads_;
  t_watch = outer_watch_;
}

void set_code_pieces(int32_t pieces) { t_pieces = pieces; }

const char* take_code_error() {
  thread_local char taken[sizeof(t_error)];
  std::memcpy(taken, t_error, sizeof(t_error));
  t_error[0] = '\0';
  return taken;
}

}  // namespace mrt
