// Output tensors that a run filled in with session memory are handed in again, by whatever loop a caller writes: by one
// session or by several, larger and smaller, after the session is gone. valgrind and the sanitizers look on.
#include <cstring>
#include <vector>

#include "tests/check.h"
#include "tests/file_builder.h"

using namespace mrt;
using namespace mrt::test;
using plan::ExprOp;
using plan::Storage;

namespace {

// y = x, c with x [n] and c = {10, 20}.
std::vector<uint8_t> longer_by_two() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n", 1, 1 << 20);
  const uint32_t c = p.constant("c", {2}, {10, 20});
  const uint32_t x = p.value("x", Storage::input, {p.of(n)});
  const uint32_t y = p.value("y", Storage::arena, {p.expr(ExprOp::add, p.of(n), p.fixed(2))});
  const uint32_t b = p.block("main");
  p.concat(b, "join", {x, c}, y);
  p.entry("main", {x}, {y}, b);
  return p.file();
}

mrt_status run(mrt_session* session, const std::vector<float>& x, mrt_tensor* out) {
  const std::vector<int64_t> shape = {static_cast<int64_t>(x.size())};
  const mrt_tensor in = tensor(const_cast<float*>(x.data()), shape);
  return mrt_session_run(session, &in, 1, out, 1, nullptr);
}

// What the run gave: all of x, then the constant.
bool right(const mrt_tensor& out, const std::vector<float>& x) {
  const float* y = static_cast<float*>(out.data);
  return out.ndim == 1 && out.shape[0] == static_cast<int64_t>(x.size()) + 2 &&
         std::memcmp(y, x.data(), x.size() * sizeof(float)) == 0 && y[x.size()] == 10 && y[x.size() + 1] == 20;
}

}  // namespace

TEST(outputs, one_tensor_for_runs_of_all_sizes) {
  Loaded l(longer_by_two());
  mrt_tensor out = {};
  for (const size_t n : {2, 2, 1, 3, 20000, 2, 1, 90000}) {
    const std::vector<float> x(n, static_cast<float>(n));
    CHECK_OK(run(l.session, x, &out));
    CHECK(right(out, x));
  }
}

TEST(outputs, a_tensor_of_a_run_before_the_memory_grew) {
  Loaded l(longer_by_two());
  const std::vector<float> few(2, 1.0f), many(90000, 2.0f);
  mrt_tensor first = {}, second = {};
  CHECK_OK(run(l.session, few, &first));
  CHECK_OK(run(l.session, many, &second));
  CHECK_OK(run(l.session, few, &first));
  CHECK(right(first, few));
}

TEST(outputs, a_tensor_of_another_session) {
  const std::vector<uint8_t> file = longer_by_two();
  const std::vector<float> few(2, 1.0f), more(3, 2.0f);
  mrt_tensor out = {};
  Loaded a(file);
  CHECK_OK(run(a.session, few, &out));
  const mrt_tensor of_a = out;
  {
    Loaded b(file);
    CHECK_OK(run(b.session, more, &out));
    CHECK(right(out, more) && out.data != of_a.data && right(of_a, few));
  }
  CHECK_OK(run(a.session, more, &out));  // b is gone, and its memory with it
  CHECK(right(out, more));
}

TEST(outputs, the_callers_buffer_stays_the_callers) {
  Loaded l(longer_by_two());
  const std::vector<float> few(2, 1.0f);
  mrt_tensor out = {};
  CHECK_OK(run(l.session, few, &out));
  float mine[8] = {};
  for (int i = 0; i < 2; ++i) {
    out.data = mine;
    out.bytes = sizeof(mine);
    CHECK_OK(run(l.session, few, &out));
    CHECK(out.data == mine && right(out, few));
  }
}

TEST(outputs, a_result_is_the_next_input) {
  Loaded l(longer_by_two());
  float x[1] = {7};
  const std::vector<int64_t> one = {1};
  mrt_tensor in = tensor(x, one), out = {};
  for (int i = 1; i <= 12; ++i) {
    CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
    CHECK_EQ(out.shape[0], 1 + 2 * i);
    const float* y = static_cast<float*>(out.data);
    CHECK_EQ(y[0], 7.0f);
    for (int k = 1; k < 1 + 2 * i; k += 2) CHECK(y[k] == 10 && y[k + 1] == 20);
    in = out;
  }
}
