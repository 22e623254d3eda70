// The one exception boundary: every status-returning function of the C API runs its body through guard().
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#include "base/status.h"

namespace mrt {

// The calling thread's last error.
void clear_error();
void set_error(const char* message);
const char* error_text();

inline mrt_status report(const Status& status) {
  if (status.ok()) {
    clear_error();
    return MRT_OK;
  }
  set_error(status.message().c_str());
  return status.code();
}

// Runs `body`, which returns a Status; whatever it throws becomes a status too.
template <typename F>
mrt_status guard(F&& body) noexcept {
  try {
    return report(body());
  } catch (const std::bad_alloc&) {
    set_error("out of memory");
    return MRT_ERROR_OUT_OF_MEMORY;
  } catch (...) {
    set_error("internal error: an exception reached the C API");
    return MRT_ERROR_INTERNAL;
  }
}

// A getter: `fallback` where the body throws.
template <typename T, typename F>
T guard_value(T fallback, F&& body) noexcept {
  try {
    return body();
  } catch (...) {
    return fallback;
  }
}

// The caller's options with defaults for what an older, smaller struct lacks. False if struct_size makes no sense.
template <typename T>
bool read_options(const T* options, T* out) {
  std::memset(static_cast<void*>(out), 0, sizeof(T));
  if (!options) return true;
  size_t size = 0;
  std::memcpy(&size, options, sizeof(size));
  if (size < sizeof(size)) return false;
  std::memcpy(static_cast<void*>(out), options, size < sizeof(T) ? size : sizeof(T));
  return true;
}

inline Status bad_options(const char* name) {
  return fail(MRT_ERROR_INVALID_ARGUMENT, "struct_size of %s is not set; set it to sizeof(%s)", name, name);
}
inline Status null_argument(const char* function, const char* name) {
  return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: '%s' is NULL", function, name);
}

}  // namespace mrt
