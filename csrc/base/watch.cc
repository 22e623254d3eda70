#include "base/watch.h"

#include <time.h>

namespace mrt {
namespace {

// The host is asked this often: what it does to answer (Python takes its lock) is then nothing beside the run, and a
// person who presses Ctrl-C does not wait.
constexpr int64_t kBetweenPolls = 50 * 1000000;

thread_local char t_here;  // its address tells threads apart

int64_t clock_ns(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

// Ticks every few milliseconds, and is read in a third of the time of the exact one.
int64_t coarse_ns() {
#if defined(CLOCK_MONOTONIC_COARSE)
  return clock_ns(CLOCK_MONOTONIC_COARSE);
#else
  return clock_ns(CLOCK_MONOTONIC);
#endif
}

}  // namespace

int64_t monotonic_ns() { return clock_ns(CLOCK_MONOTONIC); }

void throw_stopped() { throw Stopped(); }

void Watch::begin(const RunControl& control) {
  control_ = control;
  active_ = control.cancel || control.deadline_ns != 0 || control.poll;
  reason_.store(MRT_OK, std::memory_order_relaxed);
  thread_ = &t_here;
  if (control.poll) next_poll_ns_ = coarse_ns() + kBetweenPolls;
}

bool Watch::end(mrt_status reason) {
  reason_.store(reason, std::memory_order_relaxed);
  return true;
}

bool Watch::look() {
  if (control_.cancel && control_.cancel->load(std::memory_order_relaxed)) return end(MRT_ERROR_CANCELLED);
  if (control_.deadline_ns != 0 && monotonic_ns() >= control_.deadline_ns) return end(MRT_ERROR_DEADLINE);
  if (!control_.poll || thread_ != &t_here) return false;
  const int64_t now = coarse_ns();
  if (now < next_poll_ns_) return false;
  next_poll_ns_ = now + kBetweenPolls;
  return control_.poll(control_.poll_user) != 0 && end(MRT_ERROR_CANCELLED);
}

Status Watch::status() const {
  switch (reason_.load(std::memory_order_relaxed)) {
    case MRT_OK:
      return Status();
    case MRT_ERROR_DEADLINE:
      return Status(MRT_ERROR_DEADLINE, "the deadline passed before the run was complete");
    default:
      return Status(MRT_ERROR_CANCELLED, "the run was cancelled");
  }
}

}  // namespace mrt
