// Generated functions: how they are called, and what they call back. Where they come from: code_provider.h.
//
// The calling convention is TVM-FFI's for C: int f(self, const FfiAny* args, int32_t n, FfiAny* result), tensors as
// DLPack's DLTensor. The few structs of these public interfaces are declared here, so that nothing of TVM is needed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/watch.h"
#include "maas_rt.h"

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
static_assert(sizeof(FfiAny) == 16 && sizeof(DlTensor) == (sizeof(void*) == 8 ? 48 : 40), "sizes of the C interfaces");

using CodeFunction = int (*)(void* self, const FfiAny* args, int32_t count, FfiAny* result);

// What generated functions call back, in the order of kCodeHostNames: a provider fills their variables with these.
constexpr int kCodeHostCount = 5;
constexpr const char* kCodeHostNames[kCodeHostCount] = {"__TVMBackendParallelLaunch", "__TVMBackendAllocWorkspace",
                                                        "__TVMBackendFreeWorkspace", "__mrt_error_set_raised",
                                                        "__mrt_stopped"};
extern void* const kCodeHost[kCodeHostCount];

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
