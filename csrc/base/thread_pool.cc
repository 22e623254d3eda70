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

struct Job {
  ThreadPool::Task task = nullptr;
  void* user = nullptr;
  int32_t count = 0;
  std::atomic<int32_t> next{0};

  void drain() {
    for (int32_t i = next.fetch_add(1, std::memory_order_relaxed); i < count;
         i = next.fetch_add(1, std::memory_order_relaxed))
      task(user, i);
  }
};

struct alignas(64) Worker {
  std::atomic<uint32_t> word{kIdle};
  Job* job = nullptr;
};

thread_local bool t_inside = false;  // this thread is running a task of the pool

void run_alone(int32_t count, ThreadPool::Task task, void* user) {
  for (int32_t i = 0; i < count; ++i) task(user, i);
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
    self->job->drain();
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
  Job job;

  void start() {
    const int32_t wanted = cpu_count() - 1;
    if (!worker && wanted > 0) worker = new (std::nothrow) Worker[static_cast<size_t>(wanted)];
    workers = 0;
    if (worker) {
      sigset_t all, old;
      sigfillset(&all);
      pthread_sigmask(SIG_SETMASK, &all, &old);  // the host's signal handlers run on the host's threads
      pthread_attr_t attr;
      pthread_attr_init(&attr);
      pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
      for (int32_t i = 0; i < wanted; ++i) {
        worker[i].word.store(kIdle);
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
    job.drain();
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
    Job job;
    job.task = task;
    job.user = user;
    job.count = count;
    // The host decides on threads; the session's limit holds by asking for no more tasks than that.
    const auto drain = [](void* p, int32_t) {
      const bool outer = t_inside;
      t_inside = true;
      static_cast<Job*>(p)->drain();
      t_inside = outer;
    };
    parallel(hooks().user, drain, &job, count < threads ? count : threads);
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
    impl.job.task = task;
    impl.job.user = user;
    impl.job.count = count;
    impl.job.next.store(0, std::memory_order_relaxed);
    impl.run(helpers);
  }
  t_inside = false;
  impl.busy.store(false, std::memory_order_release);
}

}  // namespace mrt
