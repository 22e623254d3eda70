#include "runtime/validate.h"

#include <cstdarg>
#include <cstdio>

#include "runtime/validate/validation.h"

namespace mrt {

Status validate(const plan::Plan& plan, size_t weights_size) {
  Validation v{plan, weights_size, {}, {}, {}};
  MRT_TRY(check_tables(&v));
  MRT_TRY(check_steps(&v));
  return check_entries(v);
}

Status damaged(const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  return fail(MRT_ERROR_FORMAT, "the plan is damaged: %s", text);
}

}  // namespace mrt
