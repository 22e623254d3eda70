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
#include "base/watch.h"

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

  // Copies the section into sealed anonymous memory, checks the copy's hash, then maps it as a library. Of an encrypted
  // file the section is decrypted on the way, and the copy is locked.
  Status load(const Container& container, const Section& section, const mrt_load_options& options);
  Status find(const std::string& symbol, CodeFunction* out) const;

 private:
  void* handle_ = nullptr;
  void* locked_ = nullptr;  // pages of the copy that stay in memory
  size_t locked_size_ = 0;
  std::string name_;
};

// What generated functions on this thread find while the object lives: the number of threads that their parallel loops
// may use, and what may end the run between two pieces of such a loop.
class CodeRun {
 public:
  CodeRun(int32_t threads, Watch* watch);
  ~CodeRun();

 private:
  int32_t outer_threads_;
  Watch* outer_watch_;
};

// Into how many pieces at least the next function on this thread may cut its parallel loops.
void set_code_pieces(int32_t pieces);

// What the last generated function on this thread reported, as one line; empty if nothing. Clears it.
const char* take_code_error();

}  // namespace mrt
