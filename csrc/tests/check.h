// A test is a function that registers itself; CHECK says what was false and goes on, so that one run shows all of it.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "base/status.h"

namespace mrt {
namespace test {

struct Test {
  const char* group;
  const char* name;
  void (*function)();
};
std::vector<Test>& tests();
extern int g_failures;

struct Registrar {
  Registrar(const char* group, const char* name, void (*function)()) { tests().push_back({group, name, function}); }
};

#define TEST(group, name)                                                                              \
  static void test_##group##_##name();                                                                 \
  static const ::mrt::test::Registrar register_##group##_##name(#group, #name, test_##group##_##name); \
  static void test_##group##_##name()

#define CHECK(condition)                                                 \
  do {                                                                   \
    if (!(condition)) {                                                  \
      ++::mrt::test::g_failures;                                         \
      std::printf("%s:%d: false: %s\n", __FILE__, __LINE__, #condition); \
    }                                                                    \
  } while (0)

#define CHECK_EQ(a, b)                                                                                        \
  do {                                                                                                        \
    const auto left_ = (a);                                                                                   \
    const auto right_ = (b);                                                                                  \
    if (!(left_ == right_)) {                                                                                 \
      ++::mrt::test::g_failures;                                                                              \
      std::printf("%s:%d: %s is %s, expected %s\n", __FILE__, __LINE__, #a, ::mrt::test::show(left_).c_str(), \
                  ::mrt::test::show(right_).c_str());                                                         \
    }                                                                                                         \
  } while (0)

#define CHECK_OK(expression)                                                                              \
  do {                                                                                                    \
    const auto status_ = (expression);                                                                    \
    if (!::mrt::test::is_ok(status_)) {                                                                   \
      ++::mrt::test::g_failures;                                                                          \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #expression, ::mrt::test::why(status_).c_str()); \
    }                                                                                                     \
  } while (0)

// The sentence must hold `text`.
#define CHECK_SAYS(message, text)                                                                                      \
  do {                                                                                                                 \
    const std::string message_ = (message);                                                                            \
    if (message_.find(text) == std::string::npos) {                                                                    \
      ++::mrt::test::g_failures;                                                                                       \
      std::printf("%s:%d: '%s' does not say '%s'\n", __FILE__, __LINE__, message_.c_str(), std::string(text).c_str()); \
    }                                                                                                                  \
  } while (0)

inline std::string show(const std::string& s) { return "'" + s + "'"; }
inline std::string show(const char* s) { return show(std::string(s)); }
template <typename T>
std::string show(const T& v) {
  return std::to_string(v);
}
inline bool is_ok(const Status& s) { return s.ok(); }
inline bool is_ok(mrt_status s) { return s == MRT_OK; }
inline std::string why(const Status& s) { return s.message(); }
inline std::string why(mrt_status s) { return std::string(mrt_status_name(s)) + ": " + mrt_last_error(); }

}  // namespace test
}  // namespace mrt
