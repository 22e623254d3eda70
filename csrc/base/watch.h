// What may end a run early: a flag, a deadline, a question to the host. Looked at between steps, and between the pieces
// of a long step.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/status.h"

namespace mrt {

int64_t monotonic_ns();

struct RunControl {
  const std::atomic<bool>* cancel = nullptr;
  int64_t deadline_ns = 0;
  int32_t (*poll)(void* user) = nullptr;  // not 0: stop. Asked on the thread that began the run
  void* poll_user = nullptr;
};

class Watch {
 public:
  // On the thread that runs.
  void begin(const RunControl& control);
  // Whether there is anything that could end the run.
  bool active() const { return active_; }
  // Whether the run has to end; once it has, it stays so. Any thread that works for the run may ask.
  bool stop() { return active_ && (stopped() || look()); }
  bool stopped() const { return reason_.load(std::memory_order_relaxed) != MRT_OK; }
  // Why; ok if nothing ended the run.
  Status status() const;

 private:
  bool look();
  bool end(mrt_status reason);

  RunControl control_;
  bool active_ = false;
  int64_t next_poll_ns_ = 0;
  const void* thread_ = nullptr;  // the one that began
  std::atomic<mrt_status> reason_{MRT_OK};
};

// Asks a watch (or none) once in so many pieces of work that the question costs nothing beside them, and that they take
// some milliseconds at most.
class Pace {
 public:
  // `work`: operations of one piece.
  Pace(Watch* watch, double work)
      : watch_(watch), every_(work < kBetween ? static_cast<int64_t>(kBetween / (work < 1 ? 1 : work)) : 1) {}
  // Before each piece: whether the run has to end.
  bool stop() {
    if (watch_ == nullptr || --left_ > 0) return false;
    left_ = every_;
    return watch_->stop();
  }

 private:
  static constexpr double kBetween = 1 << 23;
  Watch* watch_;
  int64_t every_, left_ = 1;
};

// Leaves a step whose run has to end, from between two of its pieces. Thrown on the thread that runs the step, by
// parallel_items and parallel_ranges alone; the executor catches it.
struct Stopped {};
[[noreturn]] void throw_stopped();

}  // namespace mrt
