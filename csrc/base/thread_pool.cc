// A worker has one word: idle -> posted (by the run) -> running (by the worker) -> idle. The run takes back what was
// posted to a worker that has not begun, so that it never waits for a thread that the system has not woken yet.
#include "base/thread_pool.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/cpu.h"
#include "base/hooks.h"

namespace mrt {
namespace {

enum : uint32_t { kIdle = 0, kPosted = 1, kRunning = 2, kParked = 3, kAwaited = 4 };

// About 30 microseconds: longer than the gap between two steps of a run, shorter than what a neighbour would notice.
constexpr int kSpins = 1500;

inline void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

#if defined(__linux__)
void word_wait(std::atomic<uint32_t>* word, uint32_t expected) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}
void word_wake(std::atomic<uint32_t>* word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}
#else
std::mutex g_park_mutex;
std::condition_variable g_park;
void word_wait(std::atomic<uint32_t>* word, uint32_t expected) {
  std::unique_lock<std::mutex> lock(g_park_mutex);
  g_park.wait(lock, [&] { return word->load() != expected; });
}
void word_wake(std::atomic<uint32_t>*) {
  std::lock_guard<std::mutex> lock(g_park_mutex);
  g_park.notify_all();
}
#endif

// The indices that one thread of a run begins with: the first in the low half, the end in the high one. Its thread
// takes them from the front, others that have none left from the back. The same run cut the same way therefore gives a
// thread the same indices, whose data are in its caches from the step before; and nobody waits for a late thread.
struct alignas(64) Share {
  std::atomic<uint64_t> ends{0};

  void set(int64_t begin, int64_t end) {
    ends.store(static_cast<uint64_t>(end) << 32 | static_cast<uint64_t>(begin), std::memory_order_relaxed);
  }
  // The next index, or -1.
  int32_t take(bool front) {
    uint64_t now = ends.load(std::memory_order_relaxed);
    for (;;) {
      const uint64_t begin = now & UINT32_MAX, end = now >> 32;
      if (begin >= end) return -1;
      const uint64_t next = front ? now + 1 : now - (uint64_t{1} << 32);
      if (ends.compare_exchange_weak(now, next, std::memory_order_relaxed))
        return static_cast<int32_t>(front ? begin : end - 1);
    }
  }
};

struct Job {
  ThreadPool::Task task = nullptr;
  void* user = nullptr;
  Share* share = nullptr;
  int32_t shares = 0;

  void set(int32_t count, ThreadPool::Task run, void* with, Share* of, int32_t parts) {
    task = run;
    user = with;
    share = of;
    shares = parts;
    for (int64_t i = 0; i < parts; ++i) share[i].set(count * i / parts, count * (i + 1) / parts);
  }
  // What the thread number `worker` does: its own share, then what is left of the others'.
  void drain(int32_t worker) {
    const int32_t own = worker % shares;
    for (int32_t i = 0; i < shares; ++i) {
      Share& from = share[own + i < shares ? own + i : own + i - shares];
      for (int32_t index; (index = from.take(i == 0)) >= 0;) task(user, worker, index);
    }
  }
};

struct alignas(64) Worker {
  std::atomic<uint32_t> word{kIdle};
  Job* job = nullptr;
  int32_t number = 0;
};

thread_local bool t_inside = false;  // this thread is running a task of the pool

void run_alone(int32_t count, ThreadPool::Task task, void* user) {
  for (int32_t i = 0; i < count; ++i) task(user, 0, i);
}

void* worker_main(void* argument) {
  Worker* self = static_cast<Worker*>(argument);
  t_inside = true;
  for (;;) {
    uint32_t state = kIdle;
    for (int spins = 0; spins < kSpins; ++spins) {
      state = self->word.load(std::memory_order_acquire);
      if (state == kPosted) break;
      pause_cpu();
    }
    if (state != kPosted) {
      uint32_t idle = kIdle;
      if (self->word.compare_exchange_strong(idle, kParked, std::memory_order_acq_rel)) {
        while (self->word.load(std::memory_order_acquire) == kParked) word_wait(&self->word, kParked);
      }
      continue;
    }
    uint32_t posted = kPosted;
    if (!self->word.compare_exchange_strong(posted, kRunning, std::memory_order_acq_rel)) continue;  // taken back
    self->job->drain(self->number);
    if (self->word.exchange(kIdle, std::memory_order_acq_rel) == kAwaited) word_wake(&self->word);
  }
  return nullptr;
}

}  // namespace

struct ThreadPool::Impl {
  std::atomic<bool> busy{false};
  std::atomic<bool> started{false};
  int32_t workers = 0;
  Worker* worker = nullptr;
  Share* share = nullptr;  // one a worker and one for the caller
  Job job;

  void start() {
    const int32_t wanted = cpu_count() - 1;
    if (!worker && wanted > 0) worker = new (std::nothrow) Worker[static_cast<size_t>(wanted)];
    if (!share && worker) share = new (std::nothrow) Share[static_cast<size_t>(wanted) + 1];
    workers = 0;
    if (worker && share) {
      sigset_t all, old;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &old);  // the host's signal handlers run on the host's threads
      pthread_attr_t attr;
      pthread_attr_init(&attr);
      pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
      for (int32_t i = 0; i < wanted; ++i) {
        worker[i].word.store(kIdle);
        worker[i].number = i + 1;
        pthread_t thread;
        if (pthread_create(&thread, &attr, worker_main, &worker[i]) != 0) break;  // fewer workers, same results
#if defined(__linux__)
        pthread_setname_np(thread, "mrt-worker");
#endif
        ++workers;
      }
      pthread_attr_destroy(&attr);
      pthread_sigmask(SIG_SETMASK, &old, nullptr);
      if (workers < wanted) log(MRT_LOG_WARNING, "some worker threads could not be started; runs use fewer threads");
    }
    started.store(true, std::memory_order_release);
  }

  // Posts the job to `helpers` workers, works itself, then takes back or waits.
  void run(int32_t helpers) {
    for (int32_t i = 0; i < helpers; ++i) {
      worker[i].job = &job;
      if (worker[i].word.exchange(kPosted, std::memory_order_acq_rel) == kParked) word_wake(&worker[i].word);
    }
    job.drain(0);
    for (int32_t i = 0; i < helpers; ++i) {
      std::atomic<uint32_t>& word = worker[i].word;
      uint32_t posted = kPosted;
      if (word.compare_exchange_strong(posted, kIdle, std::memory_order_acq_rel)) continue;
      for (int spins = 0; spins < kSpins && word.load(std::memory_order_acquire) == kRunning; ++spins) pause_cpu();
      uint32_t running = kRunning;
      if (word.compare_exchange_strong(running, kAwaited, std::memory_order_acq_rel) || running == kAwaited)
        while (word.load(std::memory_order_acquire) == kAwaited) word_wait(&word, kAwaited);
    }
  }
};

ThreadPool* ThreadPool::process() {
  // Never destroyed: workers may be parked while the process exits.
  static ThreadPool* const pool = [] {
    static ThreadPool instance;
    instance.impl_ = new Impl;
    pthread_atfork(nullptr, nullptr, [] {
      // The child has one thread: workers are gone, and so is whatever run was going on in another thread. Their words
      // are set anew when workers are started again, on the child's next run.
      Impl* impl = ThreadPool::process()->impl_;
      impl->started.store(false);
      impl->busy.store(false);
    });
    return &instance;
  }();
  return pool;
}

void ThreadPool::run(int32_t count, int32_t threads, Task task, void* user) {
  if (count <= 0) return;
  if (count == 1 || threads <= 1 || t_inside) return run_alone(count, task, user);
  if (const mrt_parallel_fn parallel = hooks().parallel) {
    // The host decides on threads; the session's limit holds by asking for no more tasks than that.
    constexpr int32_t kMaxTasks = 16;
    const int32_t tasks = count < threads ? count : threads;
    Share share[kMaxTasks];
    Job job;
    job.set(count, task, user, share, tasks < kMaxTasks ? tasks : kMaxTasks);
    const auto drain = [](void* p, int32_t worker) {
      const bool outer = t_inside;
      t_inside = true;
      static_cast<Job*>(p)->drain(worker);
      t_inside = outer;
    };
    parallel(hooks().user, drain, &job, tasks);
    return;
  }
  Impl& impl = *impl_;
  if (impl.busy.exchange(true, std::memory_order_acquire)) return run_alone(count, task, user);
  if (!impl.started.load(std::memory_order_acquire)) impl.start();
  int32_t helpers = (threads < count ? threads : count) - 1;
  if (helpers > impl.workers) helpers = impl.workers;
  t_inside = true;
  if (helpers <= 0) {
    run_alone(count, task, user);
  } else {
    impl.job.set(count, task, user, impl.share, helpers + 1);
    impl.run(helpers);
  }
  t_inside = false;
  impl.busy.store(false, std::memory_order_release);
}

}  // namespace mrt
