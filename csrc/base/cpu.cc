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

CpuFeatures detect() {
  CpuFeatures f;
  f.level = 1;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const unsigned c1 = c;
  unsigned b7 = 0, c7 = 0, c81 = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    b7 = b;
    c7 = c;
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
  f.avx2_fma = avx2;
  f.avx512_vnni = avx2 && zmm_saved && avx512 && has(c7, 11);
  f.sha = ssse3 && sse41 && has(b7, 29);
  f.level = v3 ? 3 : v2 ? 2 : 1;
  return f;
}
#else
CpuFeatures detect() { return CpuFeatures(); }
#endif

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

IsaChoice choose_isa() {
  IsaChoice choice;
  for (const Isa isa : kIsas)
    if (cpu_runs(isa)) choice.isa = isa;
  const char* wanted = std::getenv("MAAS_RT_ISA");
  if (!wanted || !*wanted) return choice;
  for (const Isa isa : kIsas) {
    if (std::strcmp(wanted, isa_name(isa)) != 0) continue;
    if (isa > choice.isa) {
      choice.status = fail(MRT_ERROR_TARGET, "MAAS_RT_ISA is '%s', but this CPU has only '%s'; unset it", wanted,
                           isa_name(choice.isa));
    } else {
      choice.isa = isa;
    }
    return choice;
  }
  choice.status = fail(MRT_ERROR_TARGET, "MAAS_RT_ISA is '%s', expected one of %s; correct or unset it", wanted,
                       isa_names().c_str());
  return choice;
}

const IsaChoice& isa_choice() {
  static const IsaChoice choice = choose_isa();
  return choice;
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

const char* cpu_level() {
#if defined(__x86_64__)
  const int level = cpu_features().level;
  return level >= 3 ? "x86-64-v3" : level == 2 ? "x86-64-v2" : "x86-64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "unknown";
#endif
}

int cpu_target_rank(const char* target) {
  int rank = 0;
#if defined(__x86_64__)
  if (std::strcmp(target, "x86-64") == 0) rank = 1;
  if (std::strcmp(target, "x86-64-v2") == 0) rank = 2;
  if (std::strcmp(target, "x86-64-v3") == 0) rank = 3;
  if (rank > cpu_features().level) rank = 0;
#elif defined(__aarch64__)
  if (std::strcmp(target, "aarch64") == 0) rank = 1;
#else
  (void)target;
#endif
  return rank;
}

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

bool cpu_runs(Isa isa) {
  [[maybe_unused]] const CpuFeatures& f = cpu_features();
  switch (isa) {
    case Isa::reference:
      return true;
#define MRT_ISA(name, needs) \
  case Isa::name:            \
    return needs;
#include "base/isa.inc"
#undef MRT_ISA
  }
  return false;
}

std::string isa_names() {
  std::string names;
  for (const Isa isa : kIsas) names += std::string(names.empty() ? "'" : ", '") + isa_name(isa) + "'";
  return names;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::reference:
      return "reference";
#define MRT_ISA(name, needs) \
  case Isa::name:            \
    return #name;
#include "base/isa.inc"
#undef MRT_ISA
  }
  return "unknown";
}

}  // namespace mrt
