// The contract between the runtime and the kernels: what an operator family registers, and how it is called.
//
// An operator family is a folder. op.cc holds the driver (shapes, blocking, threads), written once and portable; the
// inner loops are functions of a small table (struct) that each ISA file fills; kernels.inc lists the ISAs, best first.
// ISA files put everything but their one table into an anonymous namespace and use no std containers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/cpu.h"
#include "base/status.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "base/watch.h"

namespace mrt {

// The attributes of a step, by name. Lookups happen in prepare, never in run.
class Attrs {
 public:
  virtual ~Attrs() = default;
  // Each returns false and leaves out alone where the key is absent.
  virtual bool ints(const char* key, const int64_t** out, size_t* n) const = 0;
  virtual bool floats(const char* key, const double** out, size_t* n) const = 0;
  virtual bool text(const char* key, const char** out) const = 0;
};

// What a run gives a kernel besides tensors.
struct KernelContext {
  ThreadPool* pool;        // may be null: one thread
  int32_t threads;         // at most so many of it, at least 1
  void* scratch;           // 64-byte aligned; as many bytes as the kernel's `scratch` asked for at these shapes
  const char* error;       // a kernel that returns MRT_ERROR_RUN points it at a static sentence
  Watch* watch = nullptr;  // what may end the run meanwhile: parallel_items and parallel_ranges ask it, and long items
};

// How many tensors an operator takes and gives. Inputs up to the fewest are needed; those behind may be absent.
struct Counts {
  int32_t min_in, max_in, min_out, max_out;
};

// One operator contract. All functions are called with inputs in the contract's order; a Tensor whose data is null and
// whose ndim is -1 is an absent optional input. Shapes of all tensors are filled in before `scratch` and `run`.
struct Operator {
  const char* contract;         // "gemm_f32"
  const char* const* packings;  // names, newest first, null-terminated; null if it takes no packed weights
  const char* const* kernels;  // "gemm_f32_6x16_avx2", ... one per Isa that this build has, null-terminated, best first
  size_t params_bytes;         // size of the POD that prepare fills, at most 512

  // Decode and check attributes; shapes are not known yet. `params` is zeroed memory of params_bytes.
  Status (*prepare)(const Attrs& attrs, Isa isa, void* params);
  // Check shapes against each other and against the packed weight's bytes; called once per shape binding, so that a
  // damaged or hostile file cannot make run touch memory that is not there.
  Status (*check)(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out);
  // Bytes of scratch that run needs at these shapes and this number of threads.
  size_t (*scratch)(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out, int32_t threads);
  // MRT_OK or MRT_ERROR_RUN with ctx.error. Does not allocate; throws nothing but Stopped, out of parallel_*.
  int32_t (*run)(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out, KernelContext& ctx);

  // Packing, portable; null where packings is null. `weight` is dense row-major float32 as the contract states.
  Status (*packed_bytes)(const char* packing, const Tensor& weight, const Attrs& attrs, size_t* out);
  Status (*pack)(const char* packing, const Tensor& weight, const Attrs& attrs, void* out);

  // Name of the kernel that run uses with these params (for profiles), and the work of one run.
  const char* (*kernel_name)(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out);
  double (*flops)(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out);

  Counts counts;  // held to at load: `check` and what follows may rely on it

  // Bit k: input k has the batch of the outputs as its outermost dimension. What is computed for one index of it
  // depends on that index of these inputs, and on the others as a whole. 0, or no function: there is no such dimension.
  uint32_t (*batched)(const void* params, const Tensor* in, int n_in) = nullptr;
};

// `batched` of an operator for which neither attributes nor shapes matter.
template <uint32_t inputs>
uint32_t batched_inputs(const void*, const Tensor*, int) {
  return inputs;
}

// All contracts of this build (kernels/registry.cc), sorted by name.
const Operator* const* operators(size_t* count);
const Operator* find_operator(const char* contract);
// As many inputs and outputs as the operator takes.
Status check_counts(const Operator& op, size_t n_in, size_t n_out);

}  // namespace mrt
