// A status with its sentence. One pointer, null when ok, so that handing it on costs little code; what is behind it is
// made only on failure.
#pragma once

#include <string>

#include "maas_rt.h"

namespace mrt {

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(mrt_status code, std::string message);
  Status(const Status& other);
  Status(Status&& other) noexcept : failure_(other.failure_) { other.failure_ = nullptr; }
  Status& operator=(Status other) noexcept {
    Failure* const mine = failure_;
    failure_ = other.failure_;
    other.failure_ = mine;
    return *this;
  }
  ~Status() {
    if (failure_ != nullptr) drop();
  }
  // For where there is no memory to say more.
  static Status out_of_memory() noexcept;

  bool ok() const { return failure_ == nullptr; }
  mrt_status code() const;
  const std::string& message() const;

 private:
  struct Failure;
  void drop() noexcept;

  Failure* failure_ = nullptr;
};

// printf-style: fail(MRT_ERROR_SHAPE, "input '%s' has %d dimensions, expected %d", ...).
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3), cold))
#endif
Status fail(mrt_status code, const char* format, ...);

#define MRT_TRY(expression)               \
  do {                                    \
    ::mrt::Status status_ = (expression); \
    if (!status_.ok()) return status_;    \
  } while (0)

}  // namespace mrt
