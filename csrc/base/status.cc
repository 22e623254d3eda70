#include "base/status.h"

#include <cstdarg>
#include <cstdio>

namespace mrt {

Status fail(mrt_status code, const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  return Status(code, text);
}

}  // namespace mrt
