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

namespace mrt {

// In rising order; `reference` is the scalar oracle and is never bound at load.
enum class Isa : uint8_t {
  reference,
#define MRT_ISA(name, needs) name,
#include "base/isa.inc"
#undef MRT_ISA
};
constexpr Isa kIsas[] = {
// without the reference
#define MRT_ISA(name, needs) Isa::name,
#include "base/isa.inc"
#undef MRT_ISA
};

struct CpuFeatures {
  bool avx2_fma = false;     // AVX2, FMA, F16C, and an operating system that saves the registers
  bool avx512_vnni = false;  // beside those AVX-512 F, BW, DQ, VL and VNNI, and a system that saves their registers
  bool sha = false;          // SHA-NI with SSSE3 and SSE4.1
  int level = 0;             // x86-64 psABI level: 1 to 3; 0 on other architectures
};
const CpuFeatures& cpu_features();

// "x86-64-v3", "x86-64-v2", "x86-64", "aarch64"; "unknown" elsewhere.
const char* cpu_level();
// Whether code for `target` runs here. Of two targets that do, the higher rank is better; 0: does not run.
int cpu_target_rank(const char* target);

// CPUs that this process may use: affinity mask, capped by the cgroup quota (rounded up), at least 1.
int32_t cpu_count();

// An error if MAAS_RT_ISA holds a value that no build of this library knows, or one above what this CPU has.
const Status& isa_status();
const char* isa_name(Isa isa);
std::string isa_names();  // of kIsas, quoted, for a sentence
bool cpu_runs(Isa isa);   // whether this CPU has that instruction set
// The best that this CPU and MAAS_RT_ISA allow.
Isa bound_isa();

}  // namespace mrt
