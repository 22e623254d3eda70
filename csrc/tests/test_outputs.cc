// Output tensors that a run filled in with session memory are handed in again, by whatever loop a caller writes: by one
// session or by several, larger and smaller, after the session is gone. valgrind and the sanitizers look on.
#include <algorithm>
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

// As in a loop over models with two tensors that are declared before it.
TEST(outputs, two_tensors_of_sessions_that_are_gone) {
  const std::vector<uint8_t> file = longer_by_two();
  mrt_tensor first = {}, second = {};
  for (const size_t n : {1, 30, 2, 9000, 1, 3}) {
    const std::vector<float> few(n, 1.0f), many(10 * n, 2.0f);
    Loaded a(file), b(file);
    CHECK_OK(run(a.session, few, &first));
    mrt_tensor kept = first;
    CHECK_OK(run(b.session, few, &first));
    CHECK_OK(run(b.session, many, &second));  // other memory, of the same output of the same session
    CHECK_OK(run(b.session, few, &kept));
    CHECK(right(kept, few));
    CHECK_OK(run(a.session, many, &second));
    CHECK(right(second, many));
  }
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

namespace {

// Outputs: x itself (whose size a step binds, and so is not known before), a constant, and 10 + x.
std::vector<uint8_t> views_of_what_is_not_the_sessions() {
  PlanBuilder p;
  const uint32_t k = p.symbol("k", 0, 4);
  const uint32_t c = p.constant("c", {4}, {10, 20, 30, 40}), ten = p.constant("ten", {1}, {10});
  const uint32_t x = p.value("x", Storage::input, {p.fixed(4)});
  const uint32_t n = p.value("n", Storage::input, {}, MRT_INT, 64);
  const uint32_t sum = p.value("sum", Storage::arena, {p.fixed(4)});
  const uint32_t of_x = p.view("of x", x, {p.of(k)}, p.fixed(0));
  const uint32_t of_c = p.view("of c", c, {p.of(k)}, p.fixed(0));
  const uint32_t of_sum = p.view("of sum", sum, {p.of(k)}, p.fixed(0));
  const uint32_t b = p.block("main");
  p.step(b, plan::StepKind::bind, "size", "", {n}, {}).binds = {k};
  p.code(b, "add", {x, ten}, {sum});
  p.entry("main", {x, n}, {of_x, of_c, of_sum}, b);
  p.with_code();
  return p.file();
}

// Outputs: x itself, and 10 + x.
std::vector<uint8_t> input_and_sum() {
  PlanBuilder p;
  const uint32_t ten = p.constant("ten", {1}, {10});
  const uint32_t x = p.value("x", Storage::input, {p.fixed(4)});
  const uint32_t sum = p.value("sum", Storage::arena, {p.fixed(4)});
  const uint32_t b = p.block("main");
  p.code(b, "add", {x, ten}, {sum});
  p.entry("main", {x}, {x, sum}, b);
  p.with_code();
  return p.file();
}

bool holds(const mrt_tensor& t, const std::vector<float>& values) {
  return t.ndim == 1 && t.shape[0] == static_cast<int64_t>(values.size()) &&
         (values.empty() || std::memcmp(t.data, values.data(), values.size() * sizeof(float)) == 0);
}

}  // namespace

TEST(outputs, what_is_given_is_the_sessions_to_give) {
  Loaded l(views_of_what_is_not_the_sessions());
  CHECK_OK(l.status);
  const std::vector<int64_t> four = {4};
  std::vector<mrt_tensor> out(3);
  for (int64_t n : {3, 1, 4, 0, 2}) {
    std::vector<float> x = {1, 2, 3, 4};
    const mrt_tensor in[2] = {tensor(x.data(), four), tensor(&n, {}, MRT_INT)};
    CHECK_OK(mrt_session_run(l.session, in, 2, out.data(), 3, nullptr));
    std::fill(x.begin(), x.end(), 0.0f);  // the caller's again
    const auto end = static_cast<std::ptrdiff_t>(n);
    const std::vector<float> xs = {1, 2, 3, 4}, cs = {10, 20, 30, 40}, sums = {11, 12, 13, 14};
    CHECK(holds(out[0], {xs.begin(), xs.begin() + end}) && holds(out[1], {cs.begin(), cs.begin() + end}));
    CHECK(holds(out[2], {sums.begin(), sums.begin() + end}));
    for (const mrt_tensor& t : out)  // and the results may be written to: no constant, no input
      for (int64_t i = 0; i < n; ++i) static_cast<float*>(t.data)[i] = -1;
  }
  // A result as the next input.
  int64_t n = 4;
  std::vector<float> x = {1, 2, 3, 4};
  mrt_tensor in[2] = {tensor(x.data(), four), tensor(&n, {}, MRT_INT)};
  CHECK_OK(mrt_session_run(l.session, in, 2, out.data(), 3, nullptr));
  in[0] = out[2];
  CHECK_OK(mrt_session_run(l.session, in, 2, out.data(), 3, nullptr));
  CHECK(holds(out[0], {11, 12, 13, 14}) && holds(out[2], {21, 22, 23, 24}));
}

TEST(outputs, over_an_input) {
  Loaded l(input_and_sum());
  CHECK_OK(l.status);
  const std::vector<int64_t> four = {4};
  for (const ptrdiff_t at : {0, 1, 4}) {  // the sum over x, over a part of it, beside it
    std::vector<float> memory = {1, 2, 3, 4, 0, 0, 0, 0};
    const mrt_tensor in = tensor(memory.data(), four);
    mrt_tensor out[2] = {{}, tensor(memory.data() + at, four)};
    CHECK_OK(mrt_session_run(l.session, &in, 1, out, 2, nullptr));
    CHECK(holds(out[0], {1, 2, 3, 4}) && holds(out[1], {11, 12, 13, 14}));
    std::vector<float> other(4);
    mrt_tensor swapped[2] = {tensor(memory.data() + 1, four), tensor(other.data(), four)};
    memory = {1, 2, 3, 4, 0, 0, 0, 0};
    CHECK_OK(mrt_session_run(l.session, &in, 1, swapped, 2, nullptr));
    CHECK(holds(swapped[0], {1, 2, 3, 4}) && holds(swapped[1], {11, 12, 13, 14}));
  }
}

TEST(outputs, two_in_the_same_memory_are_refused) {
  Loaded l(input_and_sum());
  const std::vector<int64_t> four = {4};
  const std::vector<int64_t> two_apart = {2};
  std::vector<float> x = {1, 2, 3, 4}, memory(16);
  const mrt_tensor in = tensor(x.data(), four);
  const auto run_at = [&](ptrdiff_t a, ptrdiff_t b, bool strided = false) {
    mrt_tensor out[2] = {tensor(memory.data() + a, four), tensor(memory.data() + b, four)};
    if (strided) out[0].strides = two_apart.data();
    out[0].bytes = (16 - static_cast<size_t>(a)) * sizeof(float);  // all that is left of the pool
    return mrt_session_run(l.session, &in, 1, out, 2, nullptr);
  };
  CHECK_OK(run_at(0, 4));
  CHECK_OK(run_at(4, 0));
  CHECK_OK(run_at(0, 7, true));
  for (const bool strided : {false, true}) {
    CHECK_EQ(run_at(0, 3, strided), MRT_ERROR_INVALID_ARGUMENT);
    CHECK_SAYS(mrt_last_error(), "share memory");
  }
  CHECK_EQ(run_at(2, 2), MRT_ERROR_INVALID_ARGUMENT);
  CHECK_EQ(run_at(0, 6, true), MRT_ERROR_INVALID_ARGUMENT);
}
