#include "base/cpu.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#if defined(__linux__)
#include <sched.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace mrt {
namespace {

#if defined(__x86_64__)
// XCR0 says which registers the operating system saves on a switch; a CPU flag alone is not enough.
uint64_t read_xcr0() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

uint32_t detect() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return kBaseline;
  const unsigned c1 = c;
  unsigned b7 = 0, c7 = 0, a71 = 0, c81 = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    b7 = b;
    c7 = c;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) a71 = a;
  }
  if (__get_cpuid(0x80000001u, &a, &b, &c, &d)) c81 = c;
  const auto has = [](unsigned word, int bit) { return ((word >> bit) & 1u) != 0; };
  const bool ssse3 = has(c1, 9), sse41 = has(c1, 19);
  const bool v2 = has(c1, 0) && ssse3 && sse41 && has(c1, 20) && has(c1, 23) && has(c1, 13) && has(c81, 0);
  const bool ymm_saved = has(c1, 27) && (read_xcr0() & 6u) == 6u;
  const bool avx2 = ymm_saved && has(c1, 28) && has(b7, 5) && has(c1, 12) && has(c1, 29);
  const bool v3 = v2 && avx2 && has(b7, 3) && has(b7, 8) && has(c1, 22) && has(c81, 5);
  // Upper halves, upper registers and masks beside what AVX saves.
  const bool zmm_saved = ymm_saved && (read_xcr0() & 0xe0u) == 0xe0u;
  const bool avx512 = has(b7, 16) && has(b7, 17) && has(b7, 30) && has(b7, 31);  // F, DQ, BW, VL
  uint32_t f = kBaseline;
  if (avx2) f |= kAvx2;
  if (avx2 && zmm_saved && avx512 && has(c7, 11)) f |= kAvx512;
  if (avx2 && has(a71, 4)) f |= kAvxVnni;
  if (ssse3 && sse41 && has(b7, 29)) f |= kSha;
  if (v2) f |= kX86V2;
  if (v3) f |= kX86V3;
  return f;
}
#elif defined(__aarch64__) && defined(__linux__)
// Bits of the kernel's ABI (Documentation/arch/arm64/elf_hwcaps.rst), which an older libc's headers may not name. The
// kernel shows what user space may use.
uint32_t detect() {
  const unsigned long caps = getauxval(AT_HWCAP), caps2 = getauxval(AT_HWCAP2);
  uint32_t f = kBaseline | kNeon;
  if ((caps >> 10 & 1) != 0) f |= kFp16;     // ASIMDHP
  if ((caps >> 20 & 1) != 0) f |= kDotprod;  // ASIMDDP
  if ((caps >> 22 & 1) != 0) f |= kSve;
  if ((caps2 >> 13 & 1) != 0) f |= kI8mm;
  return f;
}
#elif defined(__aarch64__)
uint32_t detect() { return kBaseline | kNeon; }
#else
uint32_t detect() { return kBaseline; }
#endif

// Targets of this architecture, best first, by the features that their code counts on.
struct Level {
  const char* name;
  uint32_t needs;
};
constexpr Level kLevels[] = {
#if defined(__x86_64__)
    {"x86-64-v3", kX86V2 | kX86V3},
    {"x86-64-v2", kX86V2},
    {"x86-64", kBaseline},
#elif defined(__aarch64__)
    {"aarch64-i8mm", kNeon | kDotprod | kI8mm},
    {"aarch64-dotprod", kNeon | kDotprod},
    {"aarch64", kNeon},
#endif
    {}};

#if defined(__linux__)
// The first line of a small file under /sys or /proc; false if it cannot be read.
bool read_line(const std::string& path, char* out, size_t size) {
  FILE* file = std::fopen(path.c_str(), "re");
  if (!file) return false;
  const bool ok = std::fgets(out, static_cast<int>(size), file) != nullptr;
  std::fclose(file);
  return ok;
}

// CPUs that a quota of `quota` microseconds per `period` allows, rounded up; 0: no limit.
int32_t quota_cpus(long long quota, long long period) {
  if (quota <= 0 || period <= 0) return 0;
  return static_cast<int32_t>((quota + period - 1) / period);
}

int32_t smaller_limit(int32_t a, int32_t b) { return a == 0 ? b : b == 0 || a < b ? a : b; }

// The tightest quota on the way from `group` up to the root of a hierarchy mounted at `mount`.
int32_t tightest_quota(const std::string& mount, std::string group, bool v2) {
  int32_t limit = 0;
  char line[128];
  for (;;) {
    const std::string dir = mount + group;
    long long quota = 0, period = 0;
    if (v2) {
      if (read_line(dir + "/cpu.max", line, sizeof(line)) && std::sscanf(line, "%lld %lld", &quota, &period) == 2)
        limit = smaller_limit(limit, quota_cpus(quota, period));
    } else if (read_line(dir + "/cpu.cfs_quota_us", line, sizeof(line)) && std::sscanf(line, "%lld", &quota) == 1 &&
               read_line(dir + "/cpu.cfs_period_us", line, sizeof(line)) && std::sscanf(line, "%lld", &period) == 1) {
      limit = smaller_limit(limit, quota_cpus(quota, period));
    }
    if (group.empty()) return limit;
    const size_t slash = group.rfind('/');
    group.resize(slash == std::string::npos ? 0 : slash);
  }
}

int32_t cgroup_limit() {
  FILE* file = std::fopen("/proc/self/cgroup", "re");
  if (!file) return 0;
  int32_t limit = 0;
  char line[1024];
  while (std::fgets(line, sizeof(line), file)) {
    line[std::strcspn(line, "\n")] = '\0';
    char* controllers = std::strchr(line, ':');
    char* path = controllers ? std::strchr(controllers + 1, ':') : nullptr;
    if (!path) continue;
    *path++ = '\0';
    const std::string list = std::string(",") + (controllers + 1) + ",";
    const std::string group = std::strcmp(path, "/") == 0 ? "" : path;
    if (list == ",,") {  // v2
      limit = smaller_limit(limit, tightest_quota("/sys/fs/cgroup", group, true));
      // Inside a container the path may be one of the host's, while the mount shows the container's own group.
      if (!group.empty()) limit = smaller_limit(limit, tightest_quota("/sys/fs/cgroup", "", true));
    } else if (list.find(",cpu,") != std::string::npos) {
      limit = smaller_limit(limit, tightest_quota("/sys/fs/cgroup/cpu", group, false));
      if (!group.empty()) limit = smaller_limit(limit, tightest_quota("/sys/fs/cgroup/cpu", "", false));
    }
  }
  std::fclose(file);
  return limit;
}

int32_t affinity_count() {
  for (int capacity = 1024; capacity <= 1 << 20; capacity *= 4) {
    cpu_set_t* set = CPU_ALLOC(capacity);
    if (!set) break;
    const size_t bytes = CPU_ALLOC_SIZE(capacity);
    const int rc = sched_getaffinity(0, bytes, set);
    const int count = rc == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (rc == 0) return count;
  }
  return static_cast<int32_t>(sysconf(_SC_NPROCESSORS_ONLN));
}
#else
int32_t cgroup_limit() { return 0; }
int32_t affinity_count() { return 1; }
#endif

struct IsaChoice {
  Isa isa = Isa::scalar;
  Status status;
};

const IsaChoice& isa_choice() {
  static const IsaChoice choice = [] {
    IsaChoice made;
    made.status = choose_isa(cpu_features(), std::getenv("MAAS_RT_ISA"), &made.isa);
    return made;
  }();
  return choice;
}

}  // namespace

Isa cpu_features() {
  static const Isa features = static_cast<Isa>(detect());
  return features;
}

const char* level_of(Isa features) {
  for (const Level* level = kLevels; level->name != nullptr; ++level)
    if (allows(features, static_cast<Isa>(level->needs))) return level->name;
  return "unknown";
}

int target_rank(const char* target, Isa features) {
  const int count = static_cast<int>(sizeof(kLevels) / sizeof(kLevels[0])) - 1;
  for (int i = 0; i < count; ++i)
    if (std::strcmp(target, kLevels[i].name) == 0)
      return allows(features, static_cast<Isa>(kLevels[i].needs)) ? count - i : 0;
  return 0;
}

const char* cpu_level() { return level_of(cpu_features()); }
int cpu_target_rank(const char* target) { return target_rank(target, cpu_features()); }

int32_t cpu_count() {
  static const int32_t count = [] {
    int32_t n = affinity_count();
    const int32_t limit = cgroup_limit();
    if (limit > 0 && limit < n) n = limit;
    return n < 1 ? 1 : n;
  }();
  return count;
}

const Status& isa_status() { return isa_choice().status; }
Isa bound_isa() { return isa_choice().isa; }

Status choose_isa(Isa features, const char* wanted, Isa* out) {
  *out = features;
  if (wanted == nullptr || *wanted == '\0') return Status();
  const char* wrong = "MAAS_RT_ISA is '%s', expected one of %s; correct or unset it";
  Isa known = kEveryIsa;
  for (const Isa isa : kIsas) {
    if (std::strcmp(wanted, isa_name(isa)) != 0) continue;
    if (allows(features, isa)) {
      *out = isa;
      return Status();
    }
    wrong = "MAAS_RT_ISA is '%s', but this CPU has only %s; unset it";
    known = features;
  }
  return fail(MRT_ERROR_TARGET, wrong, wanted, isa_names(known).c_str());
}

std::string isa_names(Isa allowed) {
  std::string names;
  for (const Isa isa : kIsas) {
    if (!allows(allowed, isa)) continue;
    names += names.empty() ? "'" : ", '";
    names += isa_name(isa);
    names += '\'';
  }
  return names;
}

const char* isa_name(Isa isa) {
  const char* name = "reference";
#define MRT_ISA(set, features) MRT_WITH_##set(if (allows(isa, Isa::set)) name = #set;)
#include "base/isa.inc"
#undef MRT_ISA
  return name;
}

}  // namespace mrt
