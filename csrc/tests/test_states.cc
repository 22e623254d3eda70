// A run writes all of its states or none, wherever it ends and however the plan writes them.
#include <algorithm>
#include <functional>
#include <vector>

#include "capi/handles.h"
#include "tests/check.h"
#include "tests/file_builder.h"

using namespace mrt;
using namespace mrt::test;
using plan::ArgKind;
using plan::StepKind;
using plan::Storage;

namespace {

constexpr int64_t kExtent = 2;
using Values = std::vector<float>;

// States a, b, c that start at 1, 10, 100; inputs x and a flag that a step may raise; y is the output.
struct StatePlan : PlanBuilder {
  uint32_t x, flag, nothing, y, main;
  std::vector<uint32_t> states;

  StatePlan() {
    x = value("x", Storage::input, {fixed(kExtent)});
    flag = value("flag", Storage::input, {fixed(1)}, MRT_UINT, 8);
    nothing = arena("nothing");
    y = arena("y");
    for (const float start : {1.0f, 10.0f, 100.0f}) {
      const std::string name(1, static_cast<char>('a' + states.size()));
      const uint32_t first = constant(name + ".start", {kExtent}, {start, start});
      states.push_back(value(name, Storage::state, {fixed(kExtent)}));
      plan.values[states.back()].base = static_cast<uint32_t>(plan.states.size());
      plan.states.push_back({name, states.back(), static_cast<int64_t>(first)});
    }
    main = block("main");
    with_code();
  }
  uint32_t arena(const std::string& name) { return value(name, Storage::arena, {fixed(kExtent)}); }
  void copy(uint32_t from, uint32_t to, uint32_t in = 0) { step(in, StepKind::copy, "keep", "", {from}, {to}); }
  void finish(uint32_t output) {
    entry("main", {x, flag}, {output}, main);
    plan.entries[0].reads = plan.entries[0].writes = {0, 1, 2};
  }
};

// y = a + x; a, b, c = y, b + y, a: what the compiler writes.
StatePlan copies_at_the_end() {
  StatePlan p;
  const uint32_t b = p.arena("next_b"), old = p.arena("old");
  p.code(p.main, "add", {p.states[0], p.x}, {p.y});
  p.code(p.main, "add", {p.states[1], p.y}, {b});
  p.copy(p.states[0], old);
  p.copy(p.y, p.states[0]);
  p.copy(b, p.states[1]);
  p.copy(old, p.states[2]);
  p.finish(p.y);
  return p;
}

// The same numbers: functions write the states themselves, and what they wrote is read again.
StatePlan written_by_functions() {
  StatePlan p;
  p.copy(p.states[0], p.states[2]);
  p.code(p.main, "add", {p.states[0], p.x}, {p.states[0]});
  p.code(p.main, "add", {p.states[1], p.states[0]}, {p.states[1]});
  p.copy(p.states[0], p.y);
  p.finish(p.y);
  return p;
}

// The same: what is copied into a state is overwritten behind the copy, and a state is an output.
StatePlan overwritten_sources() {
  StatePlan p;
  const uint32_t t = p.arena("t"), whole = p.fixed(kExtent), begin = p.fixed(0);
  const uint32_t part = p.view("part", t, {whole}, begin), again = p.view("again", t, {whole}, begin);
  p.code(p.main, "add", {p.states[0], p.x}, {t});
  p.copy(p.states[0], p.states[2]);
  p.copy(t, p.states[0]);
  p.code(p.main, "add", {p.states[1], t}, {part});
  p.copy(t, p.states[1]);
  p.code(p.main, "add", {p.x, p.x}, {again});
  p.finish(p.states[0]);
  return p;
}

// The same, in a loop that runs once: its body writes and reads the states.
StatePlan written_in_a_loop() {
  StatePlan p;
  const uint32_t once = p.constant("once", {}, std::vector<int64_t>{1}, MRT_INT, 64);
  const uint32_t yes = p.constant("yes", {}, std::vector<uint8_t>{1}, MRT_BOOL, 8);
  const uint32_t number = p.value("number", Storage::arena, {}, MRT_INT, 64);
  const uint32_t body = p.block("body");
  plan::Step& loop = p.step(p.main, StepKind::loop, "loop", "", {}, {});
  loop.args = {{ArgKind::absent, 0}, {ArgKind::value, once}};
  loop.blocks = {body};
  p.plan.blocks[body].params = {number};
  p.plan.blocks[body].results = {yes};
  p.copy(p.states[0], p.states[2], body);
  p.code(body, "add", {p.states[0], p.x}, {p.states[0]});
  p.code(body, "add", {p.states[1], p.states[0]}, {p.states[1]});
  p.copy(p.states[0], p.y);
  p.finish(p.y);
  return p;
}

// y is the positive elements of x: how many there are is known only when everything has been computed.
StatePlan finds_its_size() {
  StatePlan p;
  const uint32_t n = p.symbol("n", 0, 100), number = p.value("number", Storage::arena, {}, MRT_INT, 64);
  const uint32_t found = p.value("found", Storage::arena, {p.of(n)});
  p.code(p.main, "add", {p.states[0], p.x}, {p.y});
  p.copy(p.y, p.states[0]);
  p.code(p.main, "count_positive", {p.x}, {number});
  p.step(p.main, StepKind::bind, "size", "", {number}, {}).binds = {n};
  p.code(p.main, "take_positive", {p.x}, {found});
  p.finish(found);
  return p;
}

struct Run {
  mrt_status status;
  Values y;
};

class Runner {
 public:
  explicit Runner(const std::vector<uint8_t>& file) : l_(file) {
    CHECK_OK(l_.status);
    if (l_.status != MRT_OK) std::printf("%s\n", l_.message.c_str());
    CHECK_OK(mrt_state_create(l_.program, &state_));
    CHECK_OK(mrt_cancel_create(&cancel_));
  }
  ~Runner() {
    mrt_state_free(state_);
    mrt_cancel_free(cancel_);
  }
  mrt_status run(float x, Values* y, void* out = nullptr, size_t bytes = 0) {
    const float xs[kExtent] = {x, x};
    const std::vector<int64_t> shape = {kExtent}, one = {1};
    const mrt_tensor in[2] = {tensor(const_cast<float*>(xs), shape),
                              {&cancel_->set, {MRT_UINT, 8, 1}, 1, one.data(), nullptr, 0}};
    const mrt_run_options options = {sizeof(options), 0, 0, cancel_, state_};
    mrt_tensor result = {};
    result.data = out;
    result.bytes = bytes;
    const mrt_status status = mrt_session_run(l_.session, in, 2, &result, 1, &options);
    if (status == MRT_OK) y->assign(static_cast<float*>(result.data), static_cast<float*>(result.data) + kExtent);
    mrt_cancel_clear(cancel_);
    return status;
  }
  // The first element of every state.
  Values states() {
    Values out;
    for (int32_t i = 0; i < 3; ++i) {
      mrt_tensor view = {};
      CHECK_OK(mrt_state_value(state_, i, &view));
      if (!view.data) return out;
      const float* p = static_cast<float*>(view.data);
      CHECK_EQ(p[0], p[1]);
      out.push_back(p[0]);
    }
    return out;
  }

 private:
  Loaded l_;
  mrt_state* state_ = nullptr;
  mrt_cancel* cancel_ = nullptr;
};

const std::function<StatePlan()> kPlans[] = {copies_at_the_end, written_by_functions, overwritten_sources,
                                             written_in_a_loop};

}  // namespace

TEST(states, every_way_to_write_them_gives_the_same) {
  for (const auto& make : kPlans) {
    Runner r(make().file());
    Values y;
    CHECK(r.states() == Values({1, 10, 100}));
    CHECK_OK(r.run(5, &y));
    CHECK(y == Values({6, 6}) && r.states() == Values({6, 16, 1}));
    CHECK_OK(r.run(2, &y));
    CHECK(y == Values({8, 8}) && r.states() == Values({8, 24, 6}));
  }
}

TEST(states, a_run_that_ends_at_any_step_leaves_all_as_they_were) {
  for (const auto& make : kPlans) {
    const StatePlan whole = make();
    for (size_t b = 0; b < whole.plan.blocks.size(); ++b) {
      for (size_t at = 0; at <= whole.plan.blocks[b].steps.size(); ++at) {
        for (const char* function : {"always_fails", "raises_flag"}) {
          StatePlan p = make();
          p.code(static_cast<uint32_t>(b), function, {p.flag}, {p.nothing});
          std::vector<plan::Step>& steps = p.plan.blocks[b].steps;
          std::rotate(steps.begin() + static_cast<std::ptrdiff_t>(at), steps.end() - 1, steps.end());
          Runner r(p.file());
          Values y;
          const mrt_status status = r.run(5, &y);
          const bool fails = function[0] == 'a';
          // A flag raised by the last step comes too late: the run is complete.
          if (status == MRT_OK) {
            CHECK(!fails && r.states() == Values({6, 16, 1}));
          } else {
            CHECK_EQ(status, fails ? MRT_ERROR_RUN : MRT_ERROR_CANCELLED);
            CHECK(r.states() == Values({1, 10, 100}));
          }
        }
      }
    }
  }
}

TEST(states, a_run_that_cannot_deliver_leaves_them_as_they_were) {
  Runner r(finds_its_size().file());
  Values y;
  float small[1] = {0}, large[kExtent] = {0};
  CHECK_EQ(r.run(5, &y, small, sizeof(small)), MRT_ERROR_CAPACITY);
  CHECK(r.states() == Values({1, 10, 100}));
  CHECK_OK(r.run(5, &y, large, sizeof(large)));
  CHECK(r.states() == Values({6, 10, 100}) && y == Values({5, 5}));
}

TEST(states, a_result_that_the_callers_tensor_does_not_fit_leaves_them_as_they_were) {
  struct Case {
    std::vector<int64_t> shape;
    mrt_dtype dtype;
    bool exact;
    mrt_status status;
  };
  const mrt_dtype f32 = {MRT_FLOAT, 32, 1}, f64 = {MRT_FLOAT, 64, 1}, i32 = {MRT_INT, 32, 1};
  const Case cases[] = {
      {{3}, f32, true, MRT_ERROR_SHAPE},
      {{1, 2}, f32, true, MRT_ERROR_SHAPE},
      {{}, f32, true, MRT_ERROR_SHAPE},
      {{1}, f32, true, MRT_ERROR_SHAPE},
      {{1}, f32, false, MRT_ERROR_CAPACITY},
      {{0}, f32, false, MRT_ERROR_CAPACITY},
      {{-1}, f32, false, MRT_ERROR_CAPACITY},
      {{2}, f64, false, MRT_ERROR_DTYPE},
      {{2}, i32, true, MRT_ERROR_DTYPE},
      {{2}, f32, true, MRT_OK},
      {{3}, f32, false, MRT_OK},
      {{2, 2}, f32, false, MRT_OK},
  };
  for (const bool later : {false, true}) {  // of a shape that is known before the run, and after it
    for (const Case& c : cases) {
      const std::vector<uint8_t> file = (later ? finds_its_size() : copies_at_the_end()).file();
      Loaded l(file);
      CHECK_OK(l.status);
      mrt_state* state = nullptr;
      CHECK_OK(mrt_state_create(l.program, &state));
      float x[kExtent] = {5, 5};
      uint8_t flag = 0;
      double room[8] = {0};
      const std::vector<int64_t> shape = {kExtent}, one = {1};
      const mrt_tensor in[2] = {tensor(x, shape), {&flag, {MRT_UINT, 8, 1}, 1, one.data(), nullptr, 0}};
      mrt_tensor out = {room, c.dtype, static_cast<int32_t>(c.shape.size()), c.shape.data(), nullptr, 0};
      mrt_run_options options = {};
      options.struct_size = sizeof(options);
      options.state = state;
      options.exact_outputs = c.exact;
      CHECK_EQ(mrt_session_run(l.session, in, 2, &out, 1, &options), c.status);
      mrt_tensor view = {};
      CHECK_OK(mrt_state_value(state, 0, &view));
      CHECK_EQ(*static_cast<float*>(view.data), c.status == MRT_OK ? 6.0f : 1.0f);
      mrt_state_free(state);
    }
  }
}

TEST(states, their_memory_is_an_input_but_no_output) {
  for (const auto& make : kPlans) {
    Loaded l(make().file());
    mrt_state* state = nullptr;
    CHECK_OK(mrt_state_create(l.program, &state));
    mrt_tensor a = {}, b = {}, c = {};
    CHECK_OK(mrt_state_value(state, 0, &a));
    CHECK_OK(mrt_state_value(state, 1, &b));
    CHECK_OK(mrt_state_value(state, 2, &c));
    uint8_t flag = 0;
    const std::vector<int64_t> one = {1};
    const mrt_tensor raise = {&flag, {MRT_UINT, 8, 1}, 1, one.data(), nullptr, 0};
    mrt_run_options options = {};
    options.struct_size = sizeof(options);
    options.state = state;
    const mrt_tensor of_b[2] = {b, raise};  // x = b = 10
    mrt_tensor out = {};
    CHECK_OK(mrt_session_run(l.session, of_b, 2, &out, 1, &options));
    const float* y = static_cast<float*>(out.data);
    CHECK(y[0] == 11 && y[1] == 11);
    const auto first = [](const mrt_tensor& t) { return *static_cast<float*>(t.data); };
    CHECK(first(a) == 11 && first(b) == 21 && first(c) == 1);
    for (mrt_tensor into : {a, b, c}) {
      CHECK_EQ(mrt_session_run(l.session, of_b, 2, &into, 1, &options), MRT_ERROR_INVALID_ARGUMENT);
      CHECK_SAYS(mrt_last_error(), "lies in the run's state");
      CHECK(first(a) == 11 && first(b) == 21 && first(c) == 1);
    }
    mrt_state_free(state);
  }
}
