// Generated functions: the code section as a loaded library, and what such functions call back.
//
// The calling convention is TVM-FFI's for C: int f(self, const FfiAny* args, int32_t n, FfiAny* result), tensors as
// DLPack's DLTensor. The few structs of these public interfaces are declared here, so that nothing of TVM is needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "artifact/container.h"
#include "base/status.h"

namespace mrt {

struct DlDevice {
  int32_t type;  // 1: CPU
  int32_t id;
};
struct DlTensor {
  void* data;
  DlDevice device;
  int32_t ndim;
  mrt_dtype dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

constexpr int32_t kFfiInt = 1, kFfiTensor = 7;
struct FfiAny {
  int32_t type;
  uint32_t padding;
  union {
    int64_t as_int;
    void* as_pointer;
  };
};
static_assert(sizeof(FfiAny) == 16 && sizeof(DlTensor) == 48, "sizes of the C interfaces");

using CodeFunction = int (*)(void* self, const FfiAny* args, int32_t count, FfiAny* result);

class CodeModule {
 public:
  CodeModule() = default;
  CodeModule(const CodeModule&) = delete;
  CodeModule& operator=(const CodeModule&) = delete;
  ~CodeModule();

  // Copies the section into sealed anonymous memory, checks the copy's hash, then maps it as a library.
  Status load(const Container& container, const Section& section);
  Status find(const std::string& symbol, CodeFunction* out) const;

 private:
  void* handle_ = nullptr;
  std::string name_;
};

// The number of threads that parallel loops of generated functions may use on this thread, while the object lives.
class CodeThreads {
 public:
  explicit CodeThreads(int32_t threads);
  ~CodeThreads();

 private:
  int32_t outer_;
};

// What the last generated function on this thread reported, as one line; empty if nothing. Clears it.
const char* take_code_error();

}  // namespace mrt
