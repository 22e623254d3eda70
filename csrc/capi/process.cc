// Errors, versions, hooks and the CPU.
#include <cstring>

#include "base/cpu.h"
#include "base/hooks.h"
#include "base/thread_pool.h"
#include "capi/async.h"
#include "capi/boundary.h"
#include "kernels/kernel.h"
#include "runtime/issued.h"

namespace mrt {
namespace {
// A fixed buffer: reporting that memory ran out must not need any.
thread_local char t_message[1024];

// What a process has one of is made with the library: half made in another thread, it would hold a forked child for
// ever.
[[maybe_unused]] const bool g_made = (ThreadPool::process(), make_async_queue(), make_issued_table(), true);
}  // namespace

void clear_error() { t_message[0] = '\0'; }
void set_error(const char* message) {
  std::strncpy(t_message, message, sizeof(t_message) - 1);
  t_message[sizeof(t_message) - 1] = '\0';
}
const char* error_text() { return t_message; }

}  // namespace mrt

#define MRT_TEXT_OF(x) #x
#define MRT_TEXT(x) MRT_TEXT_OF(x)

extern "C" {

const char* mrt_last_error(void) { return mrt::error_text(); }

const char* mrt_version(void) {
  return MRT_TEXT(MRT_VERSION_MAJOR) "." MRT_TEXT(MRT_VERSION_MINOR) "." MRT_TEXT(MRT_VERSION_PATCH);
}

const char* mrt_status_name(mrt_status status) {
#define MRT_NAME(s) \
  case s:           \
    return #s;
  switch (status) {
    MRT_NAME(MRT_OK)
    MRT_NAME(MRT_ERROR_INVALID_ARGUMENT)
    MRT_NAME(MRT_ERROR_SHAPE)
    MRT_NAME(MRT_ERROR_DTYPE)
    MRT_NAME(MRT_ERROR_BUSY)
    MRT_NAME(MRT_ERROR_CAPACITY)
    MRT_NAME(MRT_ERROR_NO_STATE)
    MRT_NAME(MRT_ERROR_IO)
    MRT_NAME(MRT_ERROR_FORMAT)
    MRT_NAME(MRT_ERROR_VERSION)
    MRT_NAME(MRT_ERROR_HASH)
    MRT_NAME(MRT_ERROR_CODE_REFUSED)
    MRT_NAME(MRT_ERROR_SIGNATURE)
    MRT_NAME(MRT_ERROR_CHANGED)
    MRT_NAME(MRT_ERROR_KEY)
    MRT_NAME(MRT_ERROR_TARGET)
    MRT_NAME(MRT_ERROR_OUT_OF_MEMORY)
    MRT_NAME(MRT_ERROR_CANCELLED)
    MRT_NAME(MRT_ERROR_DEADLINE)
    MRT_NAME(MRT_ERROR_RUN)
    MRT_NAME(MRT_ERROR_INTERNAL)
    default:
      return "MRT_ERROR_UNKNOWN";
  }
#undef MRT_NAME
}

mrt_status mrt_set_hooks(const mrt_hooks* hooks) {
  return mrt::guard([&] {
    mrt_hooks copy;
    if (!hooks) return mrt::null_argument("mrt_set_hooks", "hooks");
    if (!mrt::read_options(hooks, &copy)) return mrt::bad_options("mrt_hooks");
    return mrt::set_hooks(copy);
  });
}

int32_t mrt_cpu_count(void) {
  return mrt::guard_value(1, [] { return mrt::cpu_count(); });
}

const char* mrt_cpu_isa(void) {
  return mrt::guard_value("scalar", [] { return mrt::isa_name(mrt::bound_isa()); });
}

const char* mrt_cpu_level(void) {
  return mrt::guard_value("unknown", [] { return mrt::cpu_level(); });
}

}  // extern "C"
