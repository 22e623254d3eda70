#include "capi/requests.h"

#include <cstdio>

#include "base/cpu.h"
#include "base/hooks.h"

namespace mrt {

void CopiedInputs::copy(RunRequest* request) {
  const mrt_tensor* from = request->inputs;
  const size_t count = request->input_count;
  size_t total = 0;
  for (size_t i = 0; i < count; ++i)
    if (from[i].ndim > 0 && from[i].ndim <= MRT_MAX_RANK) total += 2 * static_cast<size_t>(from[i].ndim);
  inputs_.assign(from, from + count);
  extents_.reserve(total);
  for (mrt_tensor& t : inputs_) {
    if (t.ndim <= 0 || t.ndim > MRT_MAX_RANK) continue;
    for (const int64_t** list : {&t.shape, &t.strides}) {
      if (!*list) continue;
      const int64_t* copy = extents_.data() + extents_.size();
      extents_.insert(extents_.end(), *list, *list + t.ndim);
      *list = copy;
    }
  }
  request->inputs = inputs_.data();
}

Status make_session(const char* function, mrt_program* program, const mrt_session_options& options, Session** out) {
  if (!program) return null_argument(function, "program");
  if (options.threads < 0 || options.layout_cache < 0)
    return fail(MRT_ERROR_INVALID_ARGUMENT, "session option %s is %d, expected 0 or more",
                options.threads < 0 ? "threads" : "layout_cache",
                options.threads < 0 ? options.threads : options.layout_cache);
  MRT_TRY(to_program(program)->check_unchanged());
  int32_t threads = options.threads > 0 ? options.threads : cpu_count();
  if (threads > cpu_count()) {
    char message[120];
    std::snprintf(message, sizeof(message), "threads lowered from %d to %d, the CPUs of this process", threads,
                  cpu_count());
    log(MRT_LOG_INFO, message);
    threads = cpu_count();
  }
  *out = new Session(to_program(program), threads, options.profile != 0, options.layout_cache);
  return Status();
}

}  // namespace mrt
