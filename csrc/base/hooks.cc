#include "base/hooks.h"

#include <atomic>
#include <cstdlib>
#include <mutex>

namespace mrt {
namespace {

std::mutex g_mutex;
std::atomic<bool> g_frozen{false};
mrt_hooks g_hooks{};  // written only before it is frozen

}  // namespace

Status set_hooks(const mrt_hooks& hooks) {
  std::lock_guard<std::mutex> lock(g_mutex);
  if (g_frozen.load())
    return fail(MRT_ERROR_BUSY, "hooks are set after a program was loaded; set them before the first load");
  if ((hooks.alloc == nullptr) != (hooks.free == nullptr))
    return fail(MRT_ERROR_INVALID_ARGUMENT, "hooks.alloc and hooks.free must be given together");
  g_hooks = hooks;
  return Status();
}

void freeze_hooks() {
  if (g_frozen.load(std::memory_order_acquire)) return;
  std::lock_guard<std::mutex> lock(g_mutex);
  g_frozen.store(true, std::memory_order_release);
}

const mrt_hooks& hooks() { return g_hooks; }

void log(mrt_log_level level, const char* message) {
  if (g_hooks.log) g_hooks.log(g_hooks.user, level, message);
}

void* allocate(size_t bytes, size_t alignment) {
  if (bytes > SIZE_MAX - alignment) return nullptr;
  if (g_hooks.alloc) return g_hooks.alloc(g_hooks.user, bytes, alignment);
  // aligned_alloc wants a multiple of the alignment.
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  return std::aligned_alloc(alignment, rounded ? rounded : alignment);
}

void release(void* pointer, size_t bytes) {
  if (!pointer) return;
  if (g_hooks.free)
    g_hooks.free(g_hooks.user, pointer, bytes);
  else
    std::free(pointer);
}

}  // namespace mrt
