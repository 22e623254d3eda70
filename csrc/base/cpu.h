// What this CPU and operating system can run, found once per process.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"

// MRT_WITH_<isa>(code): the code where this build has the ISA's files, which are compiled with their own flags
// (csrc/CMakeLists.txt); else nothing.
#define MRT_WITH_scalar(...) __VA_ARGS__
#if defined(__x86_64__) || defined(_M_X64)
#define MRT_WITH_avx2(...) __VA_ARGS__
#define MRT_WITH_avx512(...) __VA_ARGS__
#else
#define MRT_WITH_avx2(...)
#define MRT_WITH_avx512(...)
#endif
#if defined(__aarch64__)
#define MRT_WITH_neon(...) __VA_ARGS__
#define MRT_WITH_dotprod(...) __VA_ARGS__
#define MRT_WITH_i8mm(...) __VA_ARGS__
#else
#define MRT_WITH_neon(...)
#define MRT_WITH_dotprod(...)
#define MRT_WITH_i8mm(...)
#endif

namespace mrt {

// What a CPU may have, a bit each: set where the CPU has it and the operating system saves the registers that it needs.
enum Feature : uint32_t {
  kBaseline = 1u << 0,  // every CPU
  kAvx2 = 1u << 1,      // with FMA and F16C
  kAvx512 = 1u << 2,    // F, BW, DQ, VL and VNNI
  kAvxVnni = 1u << 3,   // in registers of 256 bits, without AVX-512
  kSha = 1u << 4,       // SHA-NI with SSSE3 and SSE4.1
  kX86V2 = 1u << 5,     // what a level of the x86-64 psABI has
  kX86V3 = 1u << 6,
  kNeon = 1u << 7,     // of AArch64, whose every CPU has it
  kDotprod = 1u << 8,  // sdot and udot
  kI8mm = 1u << 9,     // smmla, ummla and usmmla
  kFp16 = 1u << 10,    // arithmetic on float16
  kSve = 1u << 11,
};

// An instruction set is a set of features: of a kernel, those that it needs; of a CPU or a call, those that it allows.
// Those with a name are the enumerators, in an order in which none comes before one that it includes. Sets need not
// include one another. `reference`, which allows no kernel, is the scalar oracle and is never bound at load.
enum class Isa : uint32_t {
  reference = 0,
#define MRT_ISA(name, features) MRT_WITH_##name(name = (features), )
#include "base/isa.inc"
#undef MRT_ISA
};
constexpr Isa kIsas[] = {
// without the reference
#define MRT_ISA(name, features) MRT_WITH_##name(Isa::name, )
#include "base/isa.inc"
#undef MRT_ISA
};
constexpr Isa kEveryIsa = static_cast<Isa>(~uint32_t{0});
// Whether all that `needs` is made of is in `allowed`.
constexpr bool allows(Isa allowed, Isa needs) {
  return (static_cast<uint32_t>(needs) & ~static_cast<uint32_t>(allowed)) == 0;
}

Isa cpu_features();

// The best named level of this CPU: "x86-64-v3", "x86-64-v2", "x86-64"; "aarch64-i8mm", "aarch64-dotprod", "aarch64";
// "unknown" elsewhere.
const char* cpu_level();
// Whether code for `target` runs here. Of two targets that do, the higher rank is better; 0: does not run.
int cpu_target_rank(const char* target);
// The same for a CPU of this architecture that has these features.
const char* level_of(Isa features);
int target_rank(const char* target, Isa features);

// CPUs that this process may use: affinity mask, capped by the cgroup quota (rounded up), at least 1.
int32_t cpu_count();

// An error if MAAS_RT_ISA holds a value that no build for this architecture knows, or one that this CPU lacks.
const Status& isa_status();
// What this CPU and MAAS_RT_ISA allow.
Isa bound_isa();
// What a CPU with these features allows where MAAS_RT_ISA is `wanted`, which may be null or empty.
Status choose_isa(Isa features, const char* wanted, Isa* out);
// Of the last named set that is allowed, which is the set itself where it has a name.
const char* isa_name(Isa isa);
// Of kIsas that are allowed, quoted, for a sentence.
std::string isa_names(Isa allowed);

}  // namespace mrt
