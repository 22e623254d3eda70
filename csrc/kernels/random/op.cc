// random_uniform_f32, random_uniform_f64, random_normal_f32, random_normal_f64, random_bits_u64: seed uint64 [1],
// draw? int64 [] or [1] -> y of any shape. The generator is counter-based: an element is a function of the seed, the
// operator's number in the model, the draw (the iteration of a loop) and its own place, so that it is the same on every
// instruction set and number of threads.
#include <algorithm>

#include "kernels/random/random_kernels.h"

namespace mrt {
namespace {

constexpr int64_t kGrain = 16;  // times kRandomBytes: one piece of parallel work

constexpr Operand kInputs[] = {{"seed", kU64, 1}, {"draw", kS64, kAnyRank, kOptional}};
constexpr Attribute kAttributes[] = {integer("number", 0, UINT32_MAX, 0)};
#define MRT_RANDOM(kind, type)                                  \
  constexpr Operand kOutput_##kind[] = {{"y", type, kAnyRank}}; \
  constexpr Contract kContract_##kind = {"random_" #kind, "", kInputs, kOutput_##kind, kAttributes};
#include "kernels/random/kinds.inc"
#undef MRT_RANDOM

struct Params {
  const RandomKernel* kernel;  // null: the reference
  const Contract* contract;
  RandomKind kind;
  int64_t number;
};

Status prepare(const Attrs& attrs, Isa isa, void* params) {
  Params* p = static_cast<Params*>(params);
  p->kernel = kRandom[isa];
  p->contract = &attrs.contract();
#define MRT_RANDOM(kind_, type) \
  if (p->contract == &kContract_##kind_) p->kind = RandomKind::kind_;
#include "kernels/random/kinds.inc"
#undef MRT_RANDOM
  return attr_int(attrs, "number", &p->number);
}

Status check(const void* params, const Tensor* in, int n_in, const Tensor*, int) {
  const Contract& c = *static_cast<const Params*>(params)->contract;
  MRT_TRY(check_extent(c.name, "seed", in[0], 0, 1));
  if (!present(in, n_in, 1) || in[1].ndim == 0) return Status();
  MRT_TRY(check_tensor(c.name, "draw", in[1], 1));
  return check_extent(c.name, "draw", in[1], 0, 1);
}

RandomStream stream_of(const Params& p, const Tensor* in, int n_in) {
  const uint64_t seed = *in[0].as<const uint64_t>();
  const int64_t draw = present(in, n_in, 1) ? *in[1].as<const int64_t>() : 0;
  return {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
          static_cast<uint32_t>(draw),
          static_cast<uint32_t>(p.number)};
}

// Bytes [begin, end) of y, of which begin is a multiple of kRandomBytes.
void fill(const Params& p, const RandomStream& stream, int64_t begin, int64_t end, char* y) {
  alignas(64) char last[kRandomBytes];
  const int64_t step = p.kernel == nullptr ? kRandomBlockBytes : kRandomBytes;
  for (int64_t at = begin; at < end; at += step) {
    char* const to = end - at < step ? last : y + at;
    const uint64_t block = static_cast<uint64_t>(at / kRandomBlockBytes);
    if (p.kernel == nullptr) {
      random_reference(p.kind, stream, block, to);
    } else {
      p.kernel->fill[static_cast<size_t>(p.kind)](stream, block, to);
    }
    if (to == last) std::copy(last, last + (end - at), y + at);
  }
}

int32_t run(const void* params, const Tensor* in, int n_in, const Tensor* out, int, KernelContext& ctx) {
  if (has_no_elements(out[0])) return MRT_OK;
  const Params& p = *static_cast<const Params*>(params);
  const RandomStream stream = stream_of(p, in, n_in);
  const int64_t bytes = out[0].elements() * static_cast<int64_t>(out[0].dtype.bytes());
  char* const y = out[0].as<char>();
  parallel_ranges(ctx, ceil_div(bytes, kRandomBytes), kGrain, [&](int64_t begin, int64_t end) {
    fill(p, stream, begin * kRandomBytes, std::min(bytes, end * kRandomBytes), y);
  });
  return MRT_OK;
}

}  // namespace

#define MRT_RANDOM(kind, type) \
  const Operator kOperator_random_##kind = {&kContract_##kind, kRandom.rows, sizeof(Params), prepare, check, run};
#include "kernels/random/kinds.inc"
#undef MRT_RANDOM

}  // namespace mrt
