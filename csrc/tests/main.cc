// Runs all tests, those of one group, or one test: maas_rt_tests [group[.name]].
#include <cstring>

#include "tests/check.h"

namespace mrt {
namespace test {
std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}
int g_failures = 0;
}  // namespace test
}  // namespace mrt

int main(int argc, char** argv) {
  const char* wanted = argc > 1 ? argv[1] : "";
  int ran = 0;
  for (const mrt::test::Test& t : mrt::test::tests()) {
    const std::string full = std::string(t.group) + "." + t.name;
    if (*wanted && full != wanted && std::strcmp(t.group, wanted) != 0) continue;
    const int before = mrt::test::g_failures;
    t.function();
    ++ran;
    if (mrt::test::g_failures != before) std::printf("FAILED %s\n", full.c_str());
  }
  std::printf("%d tests, %d failures\n", ran, mrt::test::g_failures);
  if (ran == 0) return 77;  // not part of this build
  return mrt::test::g_failures > 0 ? 1 : 0;
}
