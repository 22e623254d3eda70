// Measuring the machine; see machine.h.
#include "kernels/machine/machine.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "base/arena.h"

namespace mrt {
namespace {

constexpr int kRepeats = 8;
constexpr int64_t kRounds = 200000;            // about a millisecond
constexpr int64_t kFloats = int64_t{1} << 24;  // of the buffer that is read: 64 MiB

// Seconds of the fastest of kRepeats runs of body(i) for i in [0, threads), all at once.
template <typename F>
double fastest(int32_t threads, F&& body) {
  double best = 1e30;
  for (int r = 0; r < kRepeats; ++r) {
    const auto start = std::chrono::steady_clock::now();
    ThreadPool::process()->parallel(threads, threads, [&](int32_t, int32_t i) { body(i); });
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return std::max(best, 1e-9);
}

}  // namespace

Status machine_rates(int32_t threads, MachineRates* out) {
  const MachineKernel& kernel = *kMachine[bound_isa()];
  Arena buffer;
  if (!buffer.reserve(static_cast<size_t>(kFloats) * sizeof(float)))
    return fail(MRT_ERROR_OUT_OF_MEMORY,
                "measuring the machine takes a buffer of 64 MiB, which there is no memory for");
  float* const data = reinterpret_cast<float*>(buffer.data());
  std::fill(data, data + kFloats, 1.0f);
  std::atomic<float> sink{0.0f};
  const double flops = static_cast<double>(kernel.flops) * kRounds * threads;
  out->gflops = 1e-9 * flops / fastest(threads, [&](int32_t) { sink.store(kernel.multiply(kRounds)); });
  const int64_t part = kFloats / threads / 64 * 64;
  const double bytes = static_cast<double>(part) * threads * sizeof(float);
  out->gbps = 1e-9 * bytes / fastest(threads, [&](int32_t i) { sink.store(kernel.read(data + i * part, part)); });
  return Status();
}

}  // namespace mrt
