// random_uniform_f32, random_uniform_f64, random_normal_f32, random_normal_f64, random_bits_u64: seed uint64 [1],
// draw? int64 [] or [1] -> y of any shape. The generator is counter-based: an element is a function of the seed, the
// operator's number in the model, the draw (the iteration of a loop) and its own place, so that it is the same on every
// instruction set and number of threads.
#include <algorithm>

#include "kernels/random/random_kernels.h"

namespace mrt {
namespace {

constexpr int64_t kGrain = 16;  // times kRandomBytes: one piece of parallel work

struct Params {
  const RandomKernel* kernel;  // null: the reference
  const char* name;
  int64_t number;
};

const RandomKernel* const kTables[] = {
#define MRT_KERNEL(isa) &kRandom_##isa,
#include "kernels/random/kernels.inc"
#undef MRT_KERNEL
    nullptr};

const char* const kUniformF32Names[] = {
#define MRT_KERNEL(isa) "random_uniform_f32_" #isa,
#include "kernels/random/kernels.inc"
#undef MRT_KERNEL
    nullptr};
const char* const kUniformF64Names[] = {
#define MRT_KERNEL(isa) "random_uniform_f64_" #isa,
#include "kernels/random/kernels.inc"
#undef MRT_KERNEL
    nullptr};
const char* const kNormalF32Names[] = {
#define MRT_KERNEL(isa) "random_normal_f32_" #isa,
#include "kernels/random/kernels.inc"
#undef MRT_KERNEL
    nullptr};
const char* const kNormalF64Names[] = {
#define MRT_KERNEL(isa) "random_normal_f64_" #isa,
#include "kernels/random/kernels.inc"
#undef MRT_KERNEL
    nullptr};
const char* const kBitsU64Names[] = {
#define MRT_KERNEL(isa) "random_bits_u64_" #isa,
#include "kernels/random/kernels.inc"
#undef MRT_KERNEL
    nullptr};

struct Contract {
  const char* name;
  DType dtype;
  const char* dtype_name;
  const char* reference;
  const char* const* kernels;
};
constexpr Contract kContracts[] = {
    // by RandomKind
    {"random_uniform_f32", {MRT_FLOAT, 32}, "float32", "random_uniform_f32_reference", kUniformF32Names},
    {"random_uniform_f64", {MRT_FLOAT, 64}, "float64", "random_uniform_f64_reference", kUniformF64Names},
    {"random_normal_f32", {MRT_FLOAT, 32}, "float32", "random_normal_f32_reference", kNormalF32Names},
    {"random_normal_f64", {MRT_FLOAT, 64}, "float64", "random_normal_f64_reference", kNormalF64Names},
    {"random_bits_u64", {MRT_UINT, 64}, "uint64", "random_bits_u64_reference", kBitsU64Names},
};

template <RandomKind kind>
constexpr const Contract& contract() {
  return kContracts[static_cast<size_t>(kind)];
}

template <RandomKind kind>
Status prepare(const Attrs& attrs, Isa isa, void* params) {
  constexpr const Contract& c = contract<kind>();
  Params* p = static_cast<Params*>(params);
  p->kernel = kernel_of(kTables, isa);
  p->name = c.reference;
  for (size_t i = 0; kTables[i] != nullptr; ++i)
    if (kTables[i] == p->kernel) p->name = c.kernels[i];
  return attr_int(attrs, c.name, "number", 0, UINT32_MAX, &p->number);
}

template <RandomKind kind>
Status check(const void*, const Tensor* in, int n_in, const Tensor* out, int) {
  constexpr const Contract& c = contract<kind>();
  MRT_TRY(check_dtype(c.name, "seed", in[0], 1, {MRT_UINT, 64}, "uint64"));
  MRT_TRY(check_extent(c.name, "seed", in[0], 0, 1));
  if (present(in, n_in, 1)) {
    MRT_TRY(check_dtype(c.name, "draw", in[1], in[1].ndim == 1 ? 1 : 0, {MRT_INT, 64}, "int64"));
    if (in[1].ndim == 1) MRT_TRY(check_extent(c.name, "draw", in[1], 0, 1));
  }
  return check_dtype(c.name, "y", out[0], -1, c.dtype, c.dtype_name);
}

size_t scratch(const void*, const Tensor*, int, const Tensor*, int, int32_t) { return 0; }

RandomStream stream_of(const Params& p, const Tensor* in, int n_in) {
  const uint64_t seed = *in[0].as<const uint64_t>();
  const int64_t draw = present(in, n_in, 1) ? *in[1].as<const int64_t>() : 0;
  return {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
          static_cast<uint32_t>(draw),
          static_cast<uint32_t>(p.number)};
}

// Bytes [begin, end) of y, of which begin is a multiple of kRandomBytes.
void fill(const Params& p, RandomKind kind, const RandomStream& stream, int64_t begin, int64_t end, char* y) {
  alignas(64) char last[kRandomBytes];
  const int64_t step = p.kernel == nullptr ? kRandomBlockBytes : kRandomBytes;
  for (int64_t at = begin; at < end; at += step) {
    char* const to = end - at < step ? last : y + at;
    const uint64_t block = static_cast<uint64_t>(at / kRandomBlockBytes);
    if (p.kernel == nullptr) {
      random_reference(kind, stream, block, to);
    } else {
      p.kernel->fill[static_cast<size_t>(kind)](stream, block, to);
    }
    if (to == last) std::copy(last, last + (end - at), y + at);
  }
}

template <RandomKind kind>
int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  if (has_no_elements(out[0])) return MRT_OK;
  const Params& p = *static_cast<const Params*>(params);
  const RandomStream stream = stream_of(p, in, n_in);
  const int64_t bytes = out[0].elements() * static_cast<int64_t>(out[0].dtype.bytes());
  char* const y = out[0].as<char>();
  parallel_ranges(ctx, ceil_div(bytes, kRandomBytes), kGrain, [&](int64_t begin, int64_t end) {
    fill(p, kind, stream, begin * kRandomBytes, std::min(bytes, end * kRandomBytes), y);
  });
  return MRT_OK;
}

const char* kernel_name(const void* params, const Tensor*, int, const Tensor*, int) {
  return static_cast<const Params*>(params)->name;
}

double flops(const void*, const Tensor*, int, const Tensor*, int) { return 0; }

template <RandomKind kind>
constexpr Operator random_operator() {
  constexpr const Contract& c = contract<kind>();
  return {c.name,    nullptr, c.kernels, sizeof(Params), prepare<kind>, check<kind>, scratch,
          run<kind>, nullptr, nullptr,   kernel_name,    flops,         {1, 2, 1, 1}};
}

}  // namespace

extern const Operator kRandomUniformF32Operator;
const Operator kRandomUniformF32Operator = random_operator<RandomKind::uniform_f32>();
extern const Operator kRandomUniformF64Operator;
const Operator kRandomUniformF64Operator = random_operator<RandomKind::uniform_f64>();
extern const Operator kRandomNormalF32Operator;
const Operator kRandomNormalF32Operator = random_operator<RandomKind::normal_f32>();
extern const Operator kRandomNormalF64Operator;
const Operator kRandomNormalF64Operator = random_operator<RandomKind::normal_f64>();
extern const Operator kRandomBitsU64Operator;
const Operator kRandomBitsU64Operator = random_operator<RandomKind::bits_u64>();

}  // namespace mrt
