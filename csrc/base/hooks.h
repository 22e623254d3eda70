// The host's hooks (log, allocator, thread pool) and what stands in for them where there are none.
#pragma once

#include <cstddef>

#include "base/status.h"

namespace mrt {

// Fails with MRT_ERROR_BUSY once freeze_hooks() was called.
Status set_hooks(const mrt_hooks& hooks);
// Called when the first program is loaded: memory handed out by an allocator must go back to the same one.
void freeze_hooks();
const mrt_hooks& hooks();

void log(mrt_log_level level, const char* message);

// Memory for arenas; null if there is none. `alignment` is a power of two.
void* allocate(size_t bytes, size_t alignment);
void release(void* pointer, size_t bytes);

}  // namespace mrt
