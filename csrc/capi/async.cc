#include "capi/async.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "base/cpu.h"

namespace mrt {
namespace {

struct Job {
  void (*run)(void*);
  void* argument;
};

struct Queue {
  std::mutex mutex;
  std::condition_variable ready;
  std::deque<Job> jobs;
  int32_t threads = 0, idle = 0;
};

Queue* g_queue = nullptr;
std::atomic<int32_t> g_generation{0};

// Never freed: its threads wait in it until the process ends.
Queue* queue() {
  static const bool once = [] {
    g_queue = new Queue;
    // The child has none of the threads, and perhaps a locked mutex: it begins with a new queue.
    pthread_atfork(nullptr, nullptr, [] {
      g_queue = new Queue;
      g_generation.fetch_add(1);
    });
    return true;
  }();
  (void)once;
  return g_queue;
}

void* serve(void* argument) {
  Queue* q = static_cast<Queue*>(argument);
  std::unique_lock<std::mutex> lock(q->mutex);
  for (;;) {
    ++q->idle;
    q->ready.wait(lock, [&] { return !q->jobs.empty(); });
    --q->idle;
    const Job job = q->jobs.front();
    q->jobs.pop_front();
    lock.unlock();
    job.run(job.argument);
    lock.lock();
  }
  return nullptr;
}

bool start_thread(Queue* q) {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  pthread_t thread;
  const bool ok = pthread_create(&thread, nullptr, serve, q) == 0;
  if (ok) {
    pthread_detach(thread);
#if defined(__linux__)
    pthread_setname_np(thread, "mrt-async");
#endif
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  return ok;
}

}  // namespace

void make_async_queue() { queue(); }

int32_t async_generation() { return g_generation.load(); }

Status run_async(void (*run)(void*), void* argument) {
  Queue* q = queue();
  std::lock_guard<std::mutex> lock(q->mutex);
  const int32_t waiting = static_cast<int32_t>(q->jobs.size());
  if (q->idle <= waiting && q->threads < cpu_count()) {
    if (start_thread(q))
      ++q->threads;
    else if (q->threads == 0)
      return fail(MRT_ERROR_OUT_OF_MEMORY,
                  "no thread can be started for asynchronous runs; raise the limit on threads (ulimit -u, or pids.max "
                  "of the container) or on memory");
  }
  q->jobs.push_back({run, argument});
  q->ready.notify_one();
  return Status();
}

}  // namespace mrt
