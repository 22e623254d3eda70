// Threads that run asynchronous requests.
#pragma once

#include <functional>

namespace mrt {

// Runs `job` on one of a few threads, in the order of submission as far as threads are free. Threads are started as
// they are needed, as many as there are CPUs; they survive nothing but are started again after a fork.
void run_async(std::function<void()> job);

}  // namespace mrt
