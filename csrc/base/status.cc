#include "base/status.h"

#include <cstdarg>
#include <cstdio>
#include <new>
#include <utility>

namespace mrt {

struct Status::Failure {
  mrt_status code;
  std::string message;

  // What a failure becomes that there is no memory for; never freed. Its text is short enough to need none either.
  static Failure* out_of_memory() {
    alignas(Failure) static char room[sizeof(Failure)];
    static Failure* const failure = new (room) Failure{MRT_ERROR_OUT_OF_MEMORY, "out of memory"};
    return failure;
  }
};

Status::Status(mrt_status code, std::string message) : failure_(new (std::nothrow) Failure{code, std::move(message)}) {
  if (failure_ == nullptr) failure_ = Failure::out_of_memory();
}
Status::Status(const Status& other) {
  if (!other.ok()) *this = Status(other.failure_->code, other.failure_->message);
}
void Status::drop() noexcept {
  if (failure_ != Failure::out_of_memory()) delete failure_;
}
Status Status::out_of_memory() noexcept {
  Status status;
  status.failure_ = Failure::out_of_memory();
  return status;
}

mrt_status Status::code() const { return ok() ? MRT_OK : failure_->code; }
const std::string& Status::message() const {
  static const std::string none;
  return ok() ? none : failure_->message;
}

Status fail(mrt_status code, const char* format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  return Status(code, text);
}

}  // namespace mrt
