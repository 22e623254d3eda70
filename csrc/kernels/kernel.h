// What an operator family registers beside its contract (contract.h), and how it is called.
//
// An operator family is a folder and a line in registry.inc for each contract. op.cc holds the contract and the driver
// (shapes, blocking, threads), written once and portable; the inner loops are functions of a small table (struct) that
// each ISA file fills; kernels.inc lists the ISAs, a line each, best first (kernel_list.inc). ISA files put everything
// but their one table into an anonymous namespace and use no std containers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/cpu.h"
#include "base/status.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "base/watch.h"
#include "kernels/contract.h"

namespace mrt {

// The attributes of a call, by name; `contract` is the one that the call names. Lookups happen in prepare, never in
// run: attr_int and its like (kernels/checks.h), which know bounds and defaults.
class Attrs {
 public:
  explicit Attrs(const Contract* contract) : contract_(contract) {}
  virtual ~Attrs() = default;
  // Each returns false and leaves out alone where the key is absent.
  virtual bool ints(const char* key, const int64_t** out, size_t* n) const = 0;
  virtual bool floats(const char* key, const double** out, size_t* n) const = 0;
  virtual bool text(const char* key, const char** out) const = 0;
  virtual const char* key(size_t i) const = 0;  // of all attributes; null behind the last

  const Contract& contract() const { return *contract_; }

 private:
  const Contract* contract_;
};

// What a run gives a kernel besides tensors.
struct KernelContext {
  ThreadPool* pool;        // may be null: one thread
  int32_t threads;         // at most so many of it, at least 1
  void* scratch;           // 64-byte aligned; as many bytes as the kernel's `scratch` asked for at these shapes
  const char* error;       // a kernel that returns MRT_ERROR_RUN points it at a static sentence
  Watch* watch = nullptr;  // what may end the run meanwhile: parallel_items and parallel_ranges ask it, and long items
};

// A kernel of a family: the ISA that it needs, how its name ends ("6x16_avx2"), and the table that the ISA's file fills
// in.
struct Kernel {
  Isa isa;
  const char* name;
  const void* table;
};
// The table of the first of `rows` whose needs the ISA meets; null for the reference.
const void* table_of(const Kernel* rows, Isa isa);

// The kernels of a family, best first, ended by a row of nothing; the first whose needs are met is bound. See
// kernel_list.inc.
template <typename Table>
struct KernelList {
  Kernel rows[sizeof(kIsas) / sizeof(kIsas[0]) + 1];

  const Table* operator[](Isa isa) const { return static_cast<const Table*>(table_of(rows, isa)); }
  // How the name of the kernel ends whose table this is.
  const char* name_of(const Table* table) const {
    const Kernel* row = rows;
    while (row->table != table) ++row;
    return row->name;
  }
};
// That of an operator without inner loops of its own.
extern const Kernel kPortable[2];

// One operator. All functions are called with inputs in the contract's order; a Tensor whose data is null and whose
// ndim is -1 is an absent optional input. Shapes of all tensors are filled in before `scratch` and `run`.
struct Operator {
  const Contract* contract;
  const Kernel* kernels;  // those that this build has, best first, ended by a row without a name
  size_t params_bytes;    // size of the POD that prepare fills, at most 512

  // Decode and check attributes; shapes are not known yet. `isa` is what is allowed, any set of features. `params` is
  // zeroed memory of params_bytes.
  Status (*prepare)(const Attrs& attrs, Isa isa, void* params);
  // Check shapes against each other and against the packed weight's bytes; called once per shape binding, behind
  // check_operands, so that a damaged or hostile file cannot make run touch memory that is not there.
  Status (*check)(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out);
  // MRT_OK or MRT_ERROR_RUN with ctx.error. Does not allocate; throws nothing but Stopped, out of parallel_*.
  int32_t (*run)(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out, KernelContext& ctx);

  // Bytes of scratch that run needs at these shapes and this number of threads; null: none.
  size_t (*scratch)(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out,
                    int32_t threads) = nullptr;
  // The work of one run; null: none to speak of.
  double (*flops)(const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out) = nullptr;

  // Packing, portable; null where the contract has none. `weight` is dense and of the contract's type and rank. *bytes
  // becomes what the packed form takes, -1 where that cannot be addressed; it is written where `out` is not null.
  Status (*pack)(const Tensor& weight, const Attrs& attrs, int64_t* bytes, void* out) = nullptr;

  // Whether what is computed for one index of the batch depends on that index of the inputs that are kBatched, and on
  // the others as a whole; null: always, if there are such inputs.
  bool (*separable)(const void* params, const Tensor* in, int n_in) = nullptr;
  // How the name of the kernel ends that run uses with these params, where that is not the best that the Isa allows.
  const char* (*kernel_name)(const void* params) = nullptr;
  // What a packed weight holds, where a run could otherwise be led beyond it; called once, at load. null: its size,
  // which `check` sees, is enough.
  Status (*check_weight)(const void* params, const Tensor& packed) = nullptr;
};

#define MRT_OPERATOR(contract) extern const Operator kOperator_##contract;
#include "kernels/registry.inc"
#undef MRT_OPERATOR

// All contracts of this build (kernels/registry.inc), sorted by name.
const Operator* const* operators(size_t* count);
const Operator* find_operator(const char* contract);

// ---- a call held to its contract (kernels/contract.cc) ----

// No attribute that the contract does not have.
Status check_keys(const Attrs& attrs);
// The weight that is to be packed: the type and rank that the contract states.
Status check_weight(const Contract& contract, const Tensor& weight);
// Everything that the contract says of tensors, then what the operator itself checks.
Status check_call(const Operator& op, const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out);
// Where among the inputs the first packed weight stands; there is one.
int packed_input(const Contract& contract);

size_t scratch_bytes(const Operator& op, const void* params, const Tensor* in, int n_in, const Tensor* out, int n_out,
                     int32_t threads);
// Bit k: input k has the batch of the outputs as its outermost dimension, and batches may be computed in parts.
uint32_t batched_inputs(const Operator& op, const void* params, const Tensor* in, int n_in);

// Of the kernel that run uses, "gemm_f32_6x16_avx2"; isa is not the reference.
std::string kernel_name(const Operator& op, const void* params, Isa isa);

}  // namespace mrt
