// A status with its sentence. Cheap when ok; the message is built only on failure.
#pragma once

#include <string>
#include <utility>

#include "maas_rt.h"

namespace mrt {

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(mrt_status code, std::string message) : code_(code), message_(std::move(message)) {}
  bool ok() const { return code_ == MRT_OK; }
  mrt_status code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  mrt_status code_ = MRT_OK;
  std::string message_;
};

// printf-style: fail(MRT_ERROR_SHAPE, "input '%s' has %d dimensions, expected %d", ...).
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
Status fail(mrt_status code, const char* format, ...);

#define MRT_TRY(expression)               \
  do {                                    \
    ::mrt::Status status_ = (expression); \
    if (!status_.ok()) return status_;    \
  } while (0)

}  // namespace mrt
