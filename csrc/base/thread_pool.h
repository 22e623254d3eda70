// The process's one thread pool. Workers spin briefly, then park; survives fork (workers are started again in the
// child).
#pragma once

#include <cstdint>
#include <type_traits>

namespace mrt {

class ThreadPool {
 public:
  // The pool of the process, with cpu_count() - 1 workers (the caller is the last one); started on first use.
  static ThreadPool* process();

  using Task = void (*)(void* user, int32_t worker, int32_t index);
  // Runs task(user, worker, i) for i in [0, count) on at most `threads` threads, the caller's included; returns when
  // all are done. `worker` is the number, below min(count, threads), of the thread that runs it; each begins with its
  // own stretch of [0, count), so that runs cut alike find their data where they left them. Called from inside a task,
  // or while another run holds the workers, it runs on the caller's thread alone.
  void run(int32_t count, int32_t threads, Task task, void* user);

  // The same with a callable: parallel(n, threads, [&](int32_t worker, int32_t i) { ... }). Allocates nothing.
  template <typename F>
  void parallel(int32_t count, int32_t threads, F&& body) {
    const auto task = [](void* user, int32_t worker, int32_t i) {
      (*static_cast<std::remove_reference_t<F>*>(user))(worker, i);
    };
    run(count, threads, task, &body);
  }

 private:
  struct Impl;
  ThreadPool() = default;
  ~ThreadPool() = default;
  Impl* impl_ = nullptr;
};

}  // namespace mrt
