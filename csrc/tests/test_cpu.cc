// CPU features as sets: which kernels, names and targets a set of them allows.
#include <string>

#include "base/cpu.h"
#include "kernels/kernel.h"
#include "tests/check.h"

using namespace mrt;

TEST(cpu, count_and_level) {
  CHECK(cpu_count() >= 1);
  CHECK_EQ(cpu_target_rank("x86-64-v9"), 0);
#if defined(__x86_64__) || defined(__aarch64__)
  CHECK(cpu_target_rank(cpu_level()) > 0);
#endif
#if defined(__x86_64__)
  CHECK(cpu_target_rank("x86-64") == 1);
  CHECK_EQ(cpu_target_rank("aarch64"), 0);
#elif defined(__aarch64__)
  CHECK(cpu_target_rank("aarch64") == 1);
  CHECK_EQ(cpu_target_rank("x86-64"), 0);
#endif
}

// A planted CPU runs the levels whose features it has, the best of them first.
TEST(cpu, levels_of_planted_features) {
#if defined(__x86_64__)
  const Isa v1 = Isa(kBaseline | kAvx2), v2 = Isa(kBaseline | kX86V2), v3 = Isa(kBaseline | kX86V2 | kX86V3);
  const char *low = "x86-64", *mid = "x86-64-v2", *high = "x86-64-v3";
#elif defined(__aarch64__)
  const Isa v1 = Isa(kBaseline | kNeon | kI8mm | kSve), v2 = Isa(kBaseline | kNeon | kDotprod),  // i8mm without dotprod
      v3 = Isa(kBaseline | kNeon | kDotprod | kI8mm);
  const char *low = "aarch64", *mid = "aarch64-dotprod", *high = "aarch64-i8mm";
#else
  return;
#endif
#if defined(__x86_64__) || defined(__aarch64__)
  CHECK_EQ(std::string(level_of(v1)), low);
  CHECK_EQ(std::string(level_of(v2)), mid);
  CHECK_EQ(std::string(level_of(v3)), high);
  CHECK_EQ(target_rank(low, v1), 1);
  CHECK_EQ(target_rank(mid, v1), 0);
  CHECK_EQ(target_rank(mid, v2), 2);
  CHECK_EQ(target_rank(high, v2), 0);
  CHECK_EQ(target_rank(high, v3), 3);
  CHECK_EQ(target_rank(low, v3), 1);
#endif
}

// Two sets of which neither includes the other: a row is bound where its needs are met, the first such row of the list.
TEST(cpu, kernels_are_bound_by_sets_that_have_no_order) {
  const Isa left = Isa(kBaseline | 1u << 20), right = Isa(kBaseline | 1u << 21), both = Isa(kBaseline | 3u << 20);
  const int tables[4] = {};
  const Kernel rows[] = {{both, "both", &tables[0]},
                         {right, "right", &tables[1]},
                         {left, "left", &tables[2]},
                         {Isa::scalar, "scalar", &tables[3]},
                         {}};
  CHECK(table_of(rows, both) == &tables[0]);
  CHECK(table_of(rows, right) == &tables[1]);
  CHECK(table_of(rows, left) == &tables[2]);
  CHECK(table_of(rows, Isa::scalar) == &tables[3]);
  CHECK(table_of(rows, Isa(kBaseline | 1u << 22)) == &tables[3]);
  CHECK(table_of(rows, Isa::reference) == nullptr);
  CHECK(!allows(left, right) && !allows(right, left) && allows(both, left) && allows(both, right));
}

TEST(cpu, an_isa_is_named_by_the_best_set_that_it_allows) {
  CHECK_EQ(std::string(isa_name(Isa::reference)), "reference");
  for (const Isa isa : kIsas) {
    CHECK(isa_names(kEveryIsa).find(std::string("'") + isa_name(isa) + "'") != std::string::npos);
    // A set has its own name, and one more feature that no set has changes nothing.
    CHECK_EQ(std::string(isa_name(Isa(static_cast<uint32_t>(isa) | 1u << 31))), isa_name(isa));
    for (const Isa before : kIsas) {
      if (before == isa) break;
      CHECK(!allows(before, isa));  // the order of the list is one in which includers come later
    }
  }
}

// MAAS_RT_ISA lowers to exactly the set that it names, and never to what the CPU lacks.
TEST(cpu, the_environment_only_lowers) {
  for (const Isa has : kIsas) {
    const Isa cpu = Isa(static_cast<uint32_t>(has) | kAvxVnni | kSve);
    Isa chosen = Isa::reference;
    for (const char* nothing : {static_cast<const char*>(nullptr), ""}) {
      CHECK(choose_isa(cpu, nothing, &chosen).ok());
      CHECK(chosen == cpu);
    }
    for (const Isa wanted : kIsas) {
      const Status status = choose_isa(cpu, isa_name(wanted), &chosen);
      CHECK_EQ(status.ok(), allows(has, wanted));
      if (status.ok())
        CHECK(chosen == wanted);
      else
        CHECK_SAYS(status.message(),
                   std::string("MAAS_RT_ISA is '") + isa_name(wanted) + "', but this CPU has only 'scalar'");
    }
  }
  Isa chosen = Isa::reference;
#if defined(__x86_64__)
  const char* foreign = "neon";
#else
  const char* foreign = "avx2";
#endif
  for (const char* wrong : {foreign, "reference", "Scalar", "scalar "}) {
    const Status status = choose_isa(cpu_features(), wrong, &chosen);
    CHECK_SAYS(status.message(), std::string("MAAS_RT_ISA is '") + wrong + "', expected one of 'scalar'");
  }
}
