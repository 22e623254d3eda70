// The GIL given back while the library works, and taken again.
#pragma once

#include <Python.h>
#include <unistd.h>

namespace maas_rt_python {

// Stands around what waits for the GIL. CPython before 3.14 unwinds a thread that still waits for it when the
// interpreter ends, and destructors would then touch Python's objects without it. So the thread stays where it is until
// the process ends, as it does from 3.14 on.
class Waiting {
 public:
  Waiting() = default;
  ~Waiting() {
    while (!over_) pause();
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
  void over() { over_ = true; }

 private:
  bool over_ = false;
};

// The time without the GIL.
class Released {
 public:
  Released() : thread_(PyEval_SaveThread()) {}
  ~Released() { end(); }
  Released(const Released&) = delete;
  Released& operator=(const Released&) = delete;
  void end() {
    if (thread_) take();
    thread_ = nullptr;
  }
  // Python's signal handlers run here; whether one raised.
  bool check_signals() {
    take();
    const bool raised = PyErr_CheckSignals() != 0;
    thread_ = PyEval_SaveThread();
    return raised;
  }

 private:
  void take() {
    Waiting waiting;
    PyEval_RestoreThread(thread_);
    waiting.over();
  }

  PyThreadState* thread_;
};

// Calls what may take a while without the GIL, if this thread has it. Unmapping 64 MB takes 5 ms.
template <class F>
void without_gil(F&& work) {
  if (!PyGILState_Check()) return work();
  const Released released;
  work();
}

}  // namespace maas_rt_python
