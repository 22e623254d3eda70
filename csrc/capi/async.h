// Threads that run asynchronous requests.
#pragma once

#include <cstdint>

#include "base/status.h"

namespace mrt {

// Calls `run` with its argument on one of a few threads, in the order of submission as far as threads are free. Threads
// are started as they are needed, as many as there are CPUs; they survive nothing but are started again after a fork.
// Where it fails, or throws, `run` is not called.
Status run_async(void (*run)(void*), void* argument);

// Makes the queue, if it is not there, and starts no thread.
void make_async_queue();

// Another one after each fork, which what was submitted before does not survive.
int32_t async_generation();

}  // namespace mrt
