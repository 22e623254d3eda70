// Control flow: if, loop with carried and scanned values, sizes that only the data decides.
#include <array>
#include <cstring>
#include <vector>

#include "tests/check.h"
#include "tests/file_builder.h"

using namespace mrt;
using namespace mrt::test;
using plan::ArgKind;
using plan::ExprOp;
using plan::StepKind;
using plan::Storage;

namespace {

float first(const mrt_tensor& t) { return *static_cast<float*>(t.data); }

mrt_status run(const Loaded& l, const std::vector<mrt_tensor>& in, std::vector<mrt_tensor>* out) {
  return mrt_session_run(l.session, in.data(), in.size(), out->data(), out->size(), nullptr);
}

const plan::Arg kAbsent = {ArgKind::absent, 0};

}  // namespace

// y = x < limit ? x + x : limit
TEST(control, branch) {
  PlanBuilder p;
  const uint32_t limit = p.constant("limit", {1}, {10});
  const uint32_t x = p.value("x", Storage::input, {p.fixed(1)});
  const uint32_t c = p.value("c", Storage::arena, {}, MRT_BOOL, 8);
  const uint32_t y = p.value("y", Storage::arena, {p.fixed(1)});
  const uint32_t twice = p.value("twice", Storage::arena, {p.fixed(1)});
  const uint32_t main = p.block("main"), yes = p.block("yes"), no = p.block("no");
  p.code(main, "less", {x, limit}, {c});
  p.step(main, StepKind::branch, "choose", "", {c}, {y}).blocks = {yes, no};
  p.code(yes, "add", {x, x}, {twice});
  p.plan.blocks[yes].results = {twice};
  p.plan.blocks[no].results = {limit};
  p.entry("main", {x}, {y}, main);
  p.with_code();
  Loaded l(p.file());
  CHECK_OK(l.status);
  const std::vector<int64_t> shape = {1};
  for (float v : {3.0f, 30.0f, 4.0f}) {
    std::vector<mrt_tensor> out(1);
    CHECK_OK(run(l, {tensor(&v, shape)}, &out));
    CHECK_EQ(first(out[0]), v < 10 ? 2 * v : 10);
  }
}

namespace {

// Fibonacci: (a, b) = (b, a + b), `trips` times or while a < limit; scans a. The parameters change places, so that the
// results must be set aside.
PlanBuilder fibonacci(bool dynamic, bool with_trips, int64_t fixed_trips) {
  PlanBuilder p;
  const uint32_t zero = p.constant("zero", {1}, {0}), one = p.constant("one", {1}, {1});
  const uint32_t limit = p.constant("limit", {1}, {50});
  const uint32_t yes = p.constant("yes", {}, std::vector<uint8_t>{1}, MRT_BOOL, 8);
  const uint32_t trips = p.value("trips", Storage::input, {}, MRT_INT, 64);
  const uint32_t k = p.symbol("k", 0, 1000);
  const uint32_t i = p.value("i", Storage::arena, {}, MRT_INT, 64);
  const uint32_t a = p.value("a", Storage::arena, {p.fixed(1)}), b = p.value("b", Storage::arena, {p.fixed(1)});
  const uint32_t sum = p.value("sum", Storage::arena, {p.fixed(1)});
  const uint32_t go = p.value("go", Storage::arena, {}, MRT_BOOL, 8);
  const uint32_t last_a = p.value("last_a", Storage::arena, {p.fixed(1)});
  const uint32_t last_b = p.value("last_b", Storage::arena, {p.fixed(1)});
  const uint32_t all = p.value("all", Storage::arena, {dynamic ? p.of(k) : p.fixed(fixed_trips), p.fixed(1)});
  const uint32_t main = p.block("main"), body = p.block("body");
  plan::Step& loop = p.step(main, StepKind::loop, "fibonacci", "", {}, {last_a, last_b, all});
  loop.args = {kAbsent, kAbsent, {ArgKind::value, zero}, {ArgKind::value, one}};
  if (with_trips) loop.args[1] = {ArgKind::value, trips};
  loop.blocks = {body};
  if (dynamic) loop.binds = {k};
  p.plan.blocks[body].params = {i, a, b};
  p.code(body, "add", {a, b}, {sum});
  p.code(body, "less", {sum, limit}, {go});
  p.plan.blocks[body].results = {with_trips ? yes : go, b, sum, a};
  p.entry("main", {trips}, {last_a, last_b, all}, main);
  p.with_code();
  return p;
}

}  // namespace

TEST(control, loop_with_trip_count_and_dynamic_scan) {
  Loaded l(fibonacci(true, true, 0).file());
  CHECK_OK(l.status);
  for (int64_t trips : {7, 1, 20, 0, 7}) {
    std::vector<mrt_tensor> out(3);
    CHECK_OK(run(l, {tensor(&trips, {}, MRT_INT)}, &out));
    float a = 0, b = 1;
    CHECK(out[2].ndim == 2 && out[2].shape[0] == trips && out[2].shape[1] == 1);
    for (int64_t i = 0; i < trips; ++i) {
      CHECK_EQ(static_cast<float*>(out[2].data)[i], a);
      const float sum = a + b;
      a = b;
      b = sum;
    }
    CHECK_EQ(first(out[0]), a);
    CHECK_EQ(first(out[1]), b);
  }
}

TEST(control, loop_with_condition) {
  Loaded l(fibonacci(true, false, 0).file());
  int64_t unused = 0;
  std::vector<mrt_tensor> out(3);
  CHECK_OK(run(l, {tensor(&unused, {}, MRT_INT)}, &out));
  CHECK_EQ(first(out[1]), 55.0f);
  CHECK_EQ(out[2].shape[0], int64_t{9});
  // A buffer that is too small for a size that the run decided.
  float small[2];
  out.assign(3, mrt_tensor());
  out[2].data = small;
  out[2].bytes = sizeof(small);
  CHECK_EQ(run(l, {tensor(&unused, {}, MRT_INT)}, &out), MRT_ERROR_CAPACITY);
  float large[20];
  out.assign(3, mrt_tensor());
  out[2].data = large;
  out[2].bytes = sizeof(large);
  CHECK_OK(run(l, {tensor(&unused, {}, MRT_INT)}, &out));
  CHECK_EQ(large[8], 21.0f);
}

TEST(control, loop_with_fixed_scan) {
  Loaded l(fibonacci(false, true, 7).file());
  int64_t trips = 7;
  std::vector<mrt_tensor> out(3);
  CHECK_OK(run(l, {tensor(&trips, {}, MRT_INT)}, &out));
  CHECK_EQ(static_cast<float*>(out[2].data)[6], 8.0f);
  for (int64_t wrong : {6, 8}) {
    out.assign(3, mrt_tensor());
    CHECK_EQ(run(l, {tensor(&wrong, {}, MRT_INT)}, &out), MRT_ERROR_RUN);
    CHECK_SAYS(mrt_last_error(), "fibonacci");
  }
}

namespace {

// v = v ++ v ++ x, `trips` times: from 1 element to 2 * size + 2 each time.
PlanBuilder growing(const std::vector<int64_t>& extents) {
  PlanBuilder p;
  const uint32_t n = p.symbol("n");
  const uint32_t trips = p.value("trips", Storage::input, {}, MRT_INT, 64);
  const uint32_t x = p.value("x", Storage::input, {p.fixed(2)});
  const uint32_t one = p.constant("one", {1}, {1});
  const uint32_t yes = p.constant("yes", {}, std::vector<uint8_t>{1}, MRT_BOOL, 8);
  const uint32_t i = p.value("i", Storage::arena, {}, MRT_INT, 64);
  const uint32_t v = p.value("v", Storage::arena, {p.of(n)});
  const uint32_t more = p.expr(ExprOp::add, p.expr(ExprOp::add, p.of(n), p.of(n)), p.fixed(2));
  const uint32_t longer = p.value("longer", Storage::arena, {more});
  const uint32_t last = p.value("last", Storage::arena, {p.of(n)});
  const uint32_t main = p.block("main"), body = p.block("body");
  plan::Step& loop = p.step(main, StepKind::loop, "growing", "", {}, {last});
  loop.args = {kAbsent, {ArgKind::value, trips}, {ArgKind::value, one}};
  loop.blocks = {body};
  loop.binds = {n};
  loop.attrs.push_back(ints("extents", extents));
  p.plan.blocks[body].params = {i, v};
  p.concat(body, "join", {v, v, x}, longer);
  p.plan.blocks[body].results = {yes, longer};
  p.entry("main", {trips, x}, {last}, main);
  return p;
}

}  // namespace

TEST(control, loop_that_changes_a_shape) {
  Loaded l(growing({0, 0}).file());
  CHECK_OK(l.status);
  float x[2] = {5, 6};
  const std::vector<int64_t> shape = {2};
  for (int64_t trips : {3, 0, 1, 6, 2}) {
    std::vector<float> want = {1};
    for (int64_t i = 0; i < trips; ++i) {
      std::vector<float> next = want;
      next.insert(next.end(), want.begin(), want.end());
      next.insert(next.end(), x, x + 2);
      want = next;
    }
    std::vector<mrt_tensor> out(1);
    CHECK_OK(run(l, {tensor(&trips, {}, MRT_INT), tensor(x, shape)}, &out));
    CHECK_EQ(out[0].shape[0], static_cast<int64_t>(want.size()));
    CHECK(std::memcmp(out[0].data, want.data(), want.size() * 4) == 0);
  }
}

TEST(control, extents_of_nothing_are_refused) {
  for (const std::vector<int64_t>& wrong :
       std::vector<std::vector<int64_t>>{{0}, {1, 0}, {0, 1}, {-1, 0}, {0, -1}, {0, 0, 0, 0}}) {
    Loaded l(growing(wrong).file());
    CHECK_EQ(l.status, MRT_ERROR_FORMAT);
  }
}

TEST(control, loop_bound_is_checked) {
  Loaded l(fibonacci(true, true, 0).file());
  int64_t trips = 1001;
  std::vector<mrt_tensor> out(3);
  CHECK_EQ(run(l, {tensor(&trips, {}, MRT_INT)}, &out), MRT_ERROR_RUN);
  CHECK_SAYS(mrt_last_error(), "gives 'k' the value 1001, expected 0 to 1000");
}

namespace {

// k = number of positive elements of x; y = those elements, then c; sizes = [k, k + 2].
PlanBuilder select_plan() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n"), k = p.symbol("k", 0, 6);
  const uint32_t more = p.expr(ExprOp::add, p.of(k), p.fixed(2));
  const uint32_t c = p.constant("c", {2}, {10, 20});
  const uint32_t x = p.value("x", Storage::input, {p.of(n)});
  const uint32_t count = p.value("count", Storage::arena, {}, MRT_INT, 64);
  const uint32_t chosen = p.value("chosen", Storage::arena, {p.of(k)});
  const uint32_t column = p.view("column", chosen, {p.of(k), p.fixed(1)}, p.fixed(0));
  const uint32_t flat = p.view("flat", column, {p.of(k)}, p.fixed(0));
  const uint32_t y = p.value("y", Storage::arena, {more});
  const uint32_t scaled = p.value("scaled", Storage::arena, {more});
  const uint32_t sizes = p.value("sizes", Storage::arena, {p.fixed(2)}, MRT_INT, 64);
  const uint32_t b = p.block("main");
  p.code(b, "count_positive", {x}, {count});
  p.step(b, StepKind::bind, "size", "", {count}, {}).binds = {k};
  p.code(b, "take_positive", {x}, {chosen});
  p.concat(b, "join", {flat, c}, y);
  p.code(b, "scale", {y}, {scaled}, {p.of(k)});
  plan::Step& shape = p.step(b, StepKind::shape, "sizes", "", {}, {sizes});
  shape.args = {{ArgKind::expression, p.of(k)}, {ArgKind::expression, more}};
  p.entry("main", {x}, {y, scaled, sizes, column}, b);
  p.with_code();
  return p;
}

}  // namespace

TEST(control, size_decided_by_data) {
  Loaded l(select_plan().file());
  CHECK_OK(l.status);
  const std::vector<std::vector<float>> inputs = {{1, -1, 2, -2}, {-1, -1, -1, -1}, {5, 6, 7, 8},
                                                  {1, 2},         {-3, 9},          {1, -1, 2, -2}};
  for (std::vector<float> x : inputs) {
    const std::vector<int64_t> shape = {static_cast<int64_t>(x.size())};
    std::vector<mrt_tensor> out(4);
    CHECK_OK(run(l, {tensor(x.data(), shape)}, &out));
    std::vector<float> want;
    for (const float v : x)
      if (v > 0) want.push_back(v);
    const int64_t k = static_cast<int64_t>(want.size());
    want.push_back(10);
    want.push_back(20);
    CHECK(out[0].shape[0] == k + 2 && std::memcmp(out[0].data, want.data(), want.size() * 4) == 0);
    CHECK_EQ(static_cast<float*>(out[1].data)[k + 1], 20.0f * static_cast<float>(k));
    CHECK(static_cast<int64_t*>(out[2].data)[0] == k && static_cast<int64_t*>(out[2].data)[1] == k + 2);
    CHECK(out[3].ndim == 2 && out[3].shape[0] == k && out[3].shape[1] == 1);
  }
}

TEST(control, bound_of_a_size_is_checked) {
  Loaded l(select_plan().file());
  float x[8] = {1, 1, 1, 1, 1, 1, 1, 1};
  const std::vector<int64_t> shape = {8};
  std::vector<mrt_tensor> out(4);
  CHECK_EQ(run(l, {tensor(x, shape)}, &out), MRT_ERROR_RUN);
  CHECK_SAYS(mrt_last_error(), "gives 'k' the value 8, expected 0 to 6");
}

// What the compiler assumed of the inputs is a bind step that says so.
TEST(control, a_broken_assumption_is_cited) {
  PlanBuilder p = select_plan();
  for (plan::Step& step : p.plan.blocks[0].steps) {
    if (step.kind != StepKind::bind) continue;
    step.attrs.emplace_back();
    step.attrs.back().key = "assumed";
    step.attrs.back().text = "few are positive";
  }
  Loaded l(p.file());
  CHECK_OK(l.status);
  float x[8] = {1, 1, 1, 1, 1, 1, 1, 1};
  const std::vector<int64_t> shape = {8};
  std::vector<mrt_tensor> out(4);
  CHECK_EQ(run(l, {tensor(x, shape)}, &out), MRT_ERROR_INVALID_ARGUMENT);
  CHECK_SAYS(mrt_last_error(), "compiled to assume, 'few are positive': give others");
}

// What it says of a number that the inputs make, and of inputs that it refuses.
TEST(control, a_number_out_of_bounds_is_told) {
  const std::array<std::array<const char*, 3>, 2> told = {
      {{"number", "the number of positive elements", "the number of positive elements is 8, expected 0 to 6"},
       {"refused", "too many are positive", "too many are positive"}}};
  for (const auto& [key, text, want] : told) {
    PlanBuilder p = select_plan();
    for (plan::Step& step : p.plan.blocks[0].steps) {
      if (step.kind != StepKind::bind) continue;
      step.attrs.emplace_back();
      step.attrs.back().key = key;
      step.attrs.back().text = text;
    }
    Loaded l(p.file());
    CHECK_OK(l.status);
    float x[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    const std::vector<int64_t> shape = {8};
    std::vector<mrt_tensor> out(4);
    CHECK_EQ(run(l, {tensor(x, shape)}, &out), MRT_ERROR_INVALID_ARGUMENT);
    CHECK_SAYS(mrt_last_error(), want);
  }
}

// A symbol that a step binds only in the branch that ran: the other branch leaves no value, which is an error, not what
// the last run left.
TEST(control, unbound_symbol_is_an_error) {
  PlanBuilder p;
  const uint32_t k = p.symbol("k", 0, 10);
  const uint32_t five = p.constant("five", {}, std::vector<int64_t>{5}, MRT_INT, 64);
  const uint32_t x = p.value("x", Storage::input, {}, MRT_BOOL, 8);
  const uint32_t y = p.value("y", Storage::arena, {}, MRT_INT, 64);
  const uint32_t main = p.block("main"), yes = p.block("yes"), no = p.block("no");
  p.step(main, StepKind::branch, "choose", "", {x}, {}).blocks = {yes, no};
  p.step(yes, StepKind::bind, "bind", "", {five}, {}).binds = {k};
  plan::Step& shape = p.step(main, StepKind::shape, "tell", "", {}, {y});
  shape.args = {{ArgKind::expression, p.of(k)}};
  p.entry("main", {x}, {y}, main);
  Loaded l(p.file());
  CHECK_OK(l.status);
  const auto with = [&](uint8_t flag) {
    mrt_tensor in = tensor(&flag, {}, MRT_BOOL);
    std::vector<mrt_tensor> out(1);
    const mrt_status status = run(l, {in}, &out);
    if (status == MRT_OK) CHECK_EQ(*static_cast<int64_t*>(out[0].data), int64_t{5});
    return status;
  };
  CHECK_OK(with(1));
  CHECK_EQ(with(0), MRT_ERROR_RUN);
  CHECK_OK(with(1));
}

// What is impossible inside a block is an error only when the block runs.
TEST(control, errors_wait_for_their_block) {
  PlanBuilder p;
  const uint32_t n = p.symbol("n");
  const uint32_t x = p.value("x", Storage::input, {p.of(n)});
  const uint32_t flag = p.value("flag", Storage::input, {}, MRT_BOOL, 8);
  const uint32_t y = p.value("y", Storage::arena, {p.fixed(1)});
  const uint32_t bad = p.value("bad", Storage::arena, {p.expr(ExprOp::sub, p.of(n), p.fixed(5))});
  const uint32_t one = p.constant("one", {1}, {1});
  const uint32_t main = p.block("main"), yes = p.block("yes"), no = p.block("no");
  p.step(main, StepKind::branch, "choose", "", {flag}, {y}).blocks = {yes, no};
  p.concat(yes, "impossible", {x}, bad);
  p.plan.blocks[yes].results = {bad};
  p.plan.blocks[no].results = {one};
  p.entry("main", {x, flag}, {y}, main);
  Loaded l(p.file());
  CHECK_OK(l.status);
  float data[3] = {0};
  const std::vector<int64_t> shape = {3};
  for (uint8_t f : {0, 1}) {
    std::vector<mrt_tensor> out(1);
    const mrt_status status = run(l, {tensor(data, shape), tensor(&f, {}, MRT_BOOL)}, &out);
    CHECK_EQ(status, f ? MRT_ERROR_SHAPE : MRT_OK);
  }
  CHECK_SAYS(mrt_last_error(), "is negative");
}

TEST(control, cancel_stops_an_endless_loop) {
  PlanBuilder p;
  const uint32_t yes = p.constant("yes", {}, std::vector<uint8_t>{1}, MRT_BOOL, 8);
  const uint32_t x = p.value("x", Storage::input, {p.fixed(1)});
  const uint32_t i = p.value("i", Storage::arena, {}, MRT_INT, 64);
  const uint32_t main = p.block("main"), body = p.block("body");
  plan::Step& loop = p.step(main, StepKind::loop, "forever", "", {}, {});
  loop.args = {kAbsent, kAbsent};
  loop.blocks = {body};
  p.plan.blocks[body].params = {i};
  p.plan.blocks[body].results = {yes};
  p.entry("main", {x}, {x}, main);
  Loaded l(p.file());
  CHECK_OK(l.status);
  float data = 0;
  const std::vector<int64_t> shape = {1};
  const mrt_tensor in = tensor(&data, shape);
  mrt_tensor out = {};
  mrt_run_options options = {sizeof(options), 0, 1, nullptr, nullptr};
  CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, &options), MRT_ERROR_DEADLINE);
}
