// What sessions gave away: tensors that a run filled in with memory of its session. A caller may hand one in again as
// it is, for another run of this or of another session, even when its own is gone: it is then no buffer of the
// caller's.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "maas_rt.h"

namespace mrt {

// One output of one session. `shape` is what the caller's tensor points to; its address tells that a tensor was filled
// in by this library, so records stay where they are until the process ends, and are used again late. A session gives
// other memory for other shapes, and a caller may keep several tensors, so the last few are known.
struct IssuedOutput {
  static constexpr size_t kGiven = 16;
  struct Given {
    std::atomic<const void*> data{nullptr};
    std::atomic<size_t> bytes{0};
  };

  // The session's own, between its runs' threads in turn: what was written to a caller's tensor.
  void give(const void* data, size_t bytes);
  void take_back(const void* data);  // it is the caller's now
  void clear();

  int64_t shape[MRT_MAX_RANK] = {};
  Given given[kGiven];
  size_t last = 0, next = 0;
};

// Once for the process, before anything else here.
void make_issued_table();
// Null if there is no memory.
IssuedOutput* take_issued();
void give_back_issued(IssuedOutput* record);
// Whether the tensor is as a run that gave away session memory left it.
bool is_issued(const mrt_tensor& tensor);

}  // namespace mrt
