// Sessions: shapes, inputs, outputs, generated functions, states, profiles, errors.
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "tests/check.h"
#include "tests/file_builder.h"

using namespace mrt;
using namespace mrt::test;
using plan::ExprOp;
using plan::Storage;

namespace {

// y = concat(x, c) with x [n], n in 1..100 and a multiple of 1, c = {10, 20}; x is read before y is complete.
PlanBuilder concat_plan() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n", 1, 100);
  const uint32_t c = p.constant("c", {2}, {10, 20});
  const uint32_t x = p.value("x", Storage::input, {p.of(n)});
  const uint32_t y = p.value("y", Storage::arena, {p.expr(ExprOp::add, p.of(n), p.fixed(2))});
  const uint32_t b = p.block("main");
  p.concat(b, "join", {x, c}, y);
  p.entry("main", {x}, {y}, b);
  return p;
}

// y = scale(add(x, b), 3): two generated functions with a buffer between them.
PlanBuilder code_plan() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n");
  const uint32_t one = p.constant("one", {}, {1});
  const uint32_t x = p.value("x", Storage::input, {p.of(n)});
  const uint32_t t = p.value("t", Storage::arena, {p.of(n)});
  const uint32_t y = p.value("y", Storage::arena, {p.of(n)});
  const uint32_t b = p.block("main");
  p.code(b, "add", {x, one}, {t});
  p.code(b, "scale", {t}, {y}, {p.fixed(3)});
  p.entry("main", {x}, {y}, b);
  p.with_code();
  return p;
}

}  // namespace

TEST(session, output_in_session_memory) {
  Loaded l(concat_plan().file());
  CHECK_OK(l.status);
  float x[3] = {1, 2, 3};
  const std::vector<int64_t> shape = {3};
  const mrt_tensor in = tensor(x, shape);
  for (int i = 0; i < 3; ++i) {
    mrt_tensor out = {};
    CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
    CHECK(out.ndim == 1 && out.shape[0] == 5 && out.dtype.bits == 32);
    const float want[5] = {1, 2, 3, 10, 20};
    CHECK(std::memcmp(out.data, want, sizeof(want)) == 0);
  }
  CHECK(mrt_session_memory(l.session) > 0);
}

TEST(session, output_in_the_callers_memory) {
  Loaded l(concat_plan().file());
  float x[3] = {1, 2, 3}, y[8] = {0};
  const std::vector<int64_t> shape = {3};
  const mrt_tensor in = tensor(x, shape);
  mrt_tensor out = {};
  out.data = y;
  out.bytes = sizeof(y);
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
  CHECK(out.data == y && y[4] == 20 && y[5] == 0 && out.shape[0] == 5);
  // Too small: refused before anything is written.
  y[0] = -1;
  out = {};
  out.data = y;
  out.bytes = 16;
  CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, nullptr), MRT_ERROR_CAPACITY);
  CHECK_SAYS(mrt_last_error(), "20");
  CHECK(y[0] == -1);
  // Room said by shape instead of bytes.
  const std::vector<int64_t> room = {5};
  out = tensor(y, room);
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
  CHECK(y[0] == 1);
  // Another dtype.
  out.dtype = {MRT_INT, 64, 1};
  CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, nullptr), MRT_ERROR_DTYPE);
}

TEST(session, output_over_the_input) {
  Loaded l(concat_plan().file());
  float memory[6] = {1, 2, 3, 4, 5, 6};
  const std::vector<int64_t> shape = {3};
  const mrt_tensor in = tensor(memory + 2, shape);
  mrt_tensor out = {};
  out.data = memory;
  out.bytes = sizeof(memory);
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
  const float want[6] = {3, 4, 5, 10, 20, 6};
  CHECK(std::memcmp(memory, want, sizeof(want)) == 0);
}

TEST(session, strides) {
  Loaded l(concat_plan().file());
  float x[9] = {1, 0, 0, 2, 0, 0, 3, 0, 0}, y[15] = {0};
  const std::vector<int64_t> shape = {3}, three = {3}, out_shape = {5};
  mrt_tensor in = tensor(x, shape), out = tensor(y, out_shape);
  in.strides = three.data();
  out.strides = three.data();
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
  CHECK(y[0] == 1 && y[3] == 2 && y[6] == 3 && y[9] == 10 && y[12] == 20 && y[1] == 0);
  const int64_t back = -3;
  in.data = x + 6;
  in.strides = &back;
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
  CHECK(y[0] == 3 && y[3] == 2 && y[6] == 1);
  const int64_t zero = 0;  // broadcast
  in.strides = &zero;
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
  CHECK(y[0] == 3 && y[3] == 3 && y[6] == 3);
}

TEST(session, misaligned_input) {
  Loaded l(concat_plan().file());
  alignas(8) uint8_t bytes[16] = {0};
  const float values[3] = {1, 2, 3};
  std::memcpy(bytes + 1, values, sizeof(values));
  const std::vector<int64_t> shape = {3};
  mrt_tensor in = tensor(reinterpret_cast<float*>(bytes), shape), out = {};
  in.data = bytes + 1;
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
  CHECK(std::memcmp(out.data, values, sizeof(values)) == 0);
}

TEST(session, shape_errors_name_input_and_dimension) {
  Loaded l(concat_plan().file());
  float x[200] = {0};
  mrt_tensor out = {};
  const auto says = [&](std::vector<int64_t> shape, mrt_status want, const char* text) {
    const mrt_tensor in = tensor(x, shape);
    CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, nullptr), want);
    CHECK_SAYS(mrt_last_error(), text);
  };
  says({101}, MRT_ERROR_SHAPE, "input 'x' has extent 101 in dimension 0 (n), expected 1 to 100");
  says({0}, MRT_ERROR_SHAPE, "expected 1 to 100");
  says({-1}, MRT_ERROR_SHAPE, "expected 0 or more");
  says({3, 1}, MRT_ERROR_SHAPE, "input 'x' has 2 dimensions [3, 1], expected 1: [n]");
  const std::vector<int64_t> shape = {3};
  mrt_tensor in = tensor(x, shape);
  in.dtype = {MRT_FLOAT, 64, 1};
  CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, nullptr), MRT_ERROR_DTYPE);
  CHECK_SAYS(mrt_last_error(), "input 'x' is float64, expected float32");
  in = tensor(x, shape);
  in.data = nullptr;
  CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, nullptr), MRT_ERROR_INVALID_ARGUMENT);
  CHECK_EQ(mrt_session_run(l.session, nullptr, 1, &out, 1, nullptr), MRT_ERROR_INVALID_ARGUMENT);
  CHECK_EQ(mrt_session_run(l.session, &in, 0, &out, 1, nullptr), MRT_ERROR_INVALID_ARGUMENT);
  CHECK_EQ(mrt_session_run(nullptr, &in, 1, &out, 1, nullptr), MRT_ERROR_INVALID_ARGUMENT);
  // A refusal leaves the session as it was.
  in = tensor(x, shape);
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
  CHECK_EQ(std::string(mrt_last_error()), "");
}

TEST(session, relations_between_inputs) {
  PlanBuilder p;
  const uint32_t s = p.symbol("s", 1, 64, 2);
  const uint32_t half = p.expr(ExprOp::floordiv, p.of(s), p.fixed(2));
  const uint32_t odd = p.expr(ExprOp::add, p.expr(ExprOp::mul, p.fixed(2), p.of(s)), p.fixed(1));
  const uint32_t a = p.value("a", Storage::input, {odd}), h = p.value("h", Storage::input, {half});
  const uint32_t y = p.value("y", Storage::arena, {p.expr(ExprOp::add, odd, half)});
  const uint32_t b = p.block("main");
  p.concat(b, "join", {a, h}, y);
  p.entry("main", {a, h}, {y}, b);
  p.plan.entries[0].checks.push_back({p.of(s), p.fixed(4), "only four"});
  Loaded l(p.file());
  CHECK_OK(l.status);
  float x[100] = {0};
  const auto run = [&](int64_t n, int64_t m) {
    const std::vector<int64_t> n_shape = {n}, m_shape = {m};
    const mrt_tensor in[2] = {tensor(x, n_shape), tensor(x, m_shape)};
    mrt_tensor out = {};
    return mrt_session_run(l.session, in, 2, &out, 1, nullptr);
  };
  CHECK_OK(run(9, 2));
  CHECK_EQ(run(9, 3), MRT_ERROR_SHAPE);
  CHECK_SAYS(mrt_last_error(), "input 'h' has extent 3 in dimension 0, expected 2 (s//2)");
  CHECK_EQ(run(8, 2), MRT_ERROR_SHAPE);
  CHECK_SAYS(mrt_last_error(), "2*s+1 for no whole s");
  CHECK_EQ(run(7, 1), MRT_ERROR_SHAPE);
  CHECK_SAYS(mrt_last_error(), "a multiple of 2");
  CHECK_EQ(run(13, 3), MRT_ERROR_SHAPE);
  CHECK_SAYS(mrt_last_error(), "only four");
}

TEST(session, overflowing_shapes_are_errors) {
  PlanBuilder p;
  const uint32_t n = p.symbol("n");
  const uint32_t square = p.expr(ExprOp::mul, p.of(n), p.of(n));
  const uint32_t x = p.value("x", Storage::input, {p.of(n), p.fixed(0)});
  const uint32_t y = p.value("y", Storage::arena, {square, square, square});
  const uint32_t b = p.block("main");
  p.concat(b, "join", {x}, y);
  p.entry("main", {x}, {y}, b);
  Loaded l(p.file());
  float data = 0;
  for (const int64_t extent : {int64_t{1} << 30, int64_t{1} << 40, INT64_MAX}) {
    const std::vector<int64_t> shape = {extent, 0};
    const mrt_tensor in = tensor(&data, shape);
    mrt_tensor out = {};
    CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, nullptr), MRT_ERROR_SHAPE);
  }
}

TEST(session, info) {
  Loaded l(concat_plan().file());
  mrt_value_info info;
  CHECK_EQ(mrt_program_entry_count(l.program), 1);
  CHECK_EQ(std::string(mrt_program_entry_name(l.program, 0)), "main");
  CHECK(mrt_program_entry_name(l.program, 1) == nullptr);
  CHECK_EQ(mrt_program_entry_find(l.program, "main"), 0);
  CHECK_EQ(mrt_program_entry_find(l.program, "x"), -1);
  CHECK_EQ(mrt_program_input_count(l.program, 0), 1);
  CHECK_EQ(mrt_program_input_count(l.program, 5), -1);
  CHECK_OK(mrt_program_input_info(l.program, 0, 0, &info));
  CHECK_EQ(std::string(info.name), "x");
  CHECK(info.ndim == 1 && info.dims[0].extent == -1 && info.dims[0].min == 1 && info.dims[0].max == 100);
  CHECK_EQ(std::string(info.dims[0].expr), "n");
  CHECK_OK(mrt_program_output_info(l.program, 0, 0, &info));
  CHECK_EQ(std::string(info.dims[0].expr), "n+2");
  CHECK(info.dims[0].min == 3 && info.dims[0].max == 102);
  CHECK_EQ(mrt_program_output_info(l.program, 0, 1, &info), MRT_ERROR_INVALID_ARGUMENT);
}

TEST(session, options_with_struct_size) {
  const std::vector<uint8_t> file = concat_plan().file();
  mrt_session_options options = {};
  CHECK_EQ(Loaded(file, &options).status, MRT_ERROR_INVALID_ARGUMENT);  // struct_size 0
  options.struct_size = sizeof(size_t) + sizeof(int32_t);               // an older caller: threads only
  options.threads = 1;
  options.layout_cache = -5;  // beyond what the caller knows
  CHECK_OK(Loaded(file, &options).status);
  options.struct_size = sizeof(options);
  CHECK_EQ(Loaded(file, &options).status, MRT_ERROR_INVALID_ARGUMENT);
}

TEST(session, generated_functions) {
  for (const int32_t threads : {1, 2}) {
    mrt_session_options options = {sizeof(options), threads, 0, 0};
    Loaded l(code_plan().file(), &options);
    CHECK_OK(l.status);
    if (l.status != MRT_OK) std::printf("%s\n", l.message.c_str());
    std::vector<float> x(1001);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
    const std::vector<int64_t> shape = {1001};
    const mrt_tensor in = tensor(x.data(), shape);
    mrt_tensor out = {};
    CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
    int wrong = 0;
    for (size_t i = 0; i < x.size(); ++i) wrong += static_cast<float*>(out.data)[i] != 3 * (x[i] + 1);
    CHECK_EQ(wrong, 0);
  }
}

TEST(session, errors_of_generated_functions) {
  PlanBuilder p;
  const uint32_t x = p.value("x", Storage::input, {p.fixed(2)});
  const uint32_t y = p.value("y", Storage::arena, {p.fixed(2)});
  const uint32_t b = p.block("main");
  p.code(b, "always_fails", {x}, {y});
  p.entry("main", {x}, {y}, b);
  p.with_code();
  Loaded l(p.file());
  float data[2] = {0};
  const std::vector<int64_t> shape = {2};
  const mrt_tensor in = tensor(data, shape);
  mrt_tensor out = {};
  CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, nullptr), MRT_ERROR_RUN);
  CHECK_SAYS(mrt_last_error(), "step 'always_fails' (always_fails): ValueError: it is wrong on purpose");
}

TEST(session, code_policies) {
  PlanBuilder p = code_plan();
  const AlignedBytes bytes(p.file());
  mrt_program* program = nullptr;
  mrt_load_options options = {sizeof(options), MRT_CODE_REFUSE, MRT_VERIFY_DEFAULT, nullptr, nullptr};
  CHECK_EQ(mrt_program_load_memory(bytes.data(), bytes.size(), &options, nullptr, nullptr, &program),
           MRT_ERROR_CODE_REFUSED);
  options.code = MRT_CODE_SIGNED;
  CHECK_EQ(mrt_program_load_memory(bytes.data(), bytes.size(), &options, nullptr, nullptr, &program),
           MRT_ERROR_INVALID_ARGUMENT);
  // A changed code section is refused before it is mapped.
  std::vector<uint8_t> file = p.file();
  file[file.size() - 1000] ^= 1;
  CHECK_EQ(Loaded(file).status, MRT_ERROR_HASH);
  // None, for another level, without the function, not a library.
  p.more.clear();
  CHECK_EQ(Loaded(p.file()).status, MRT_ERROR_FORMAT);
  p.with_code();
  p.more[0].target = "x86-64-v9";
  Loaded other(p.file());
  CHECK_EQ(other.status, MRT_ERROR_TARGET);
  CHECK_SAYS(other.message, "was compiled for x86-64-v9");
  p.more[0].target = mrt_cpu_level();
  p.plan.blocks[0].steps[0].target = "nothing";
  CHECK_EQ(Loaded(p.file()).status, MRT_ERROR_FORMAT);
  p.more[0].bytes.assign(5000, 1);
  CHECK_EQ(Loaded(p.file()).status, MRT_ERROR_FORMAT);
}

// Two programs with the same code section are two libraries, loaded and gone in any order.
TEST(session, code_of_several_programs) {
  const std::vector<uint8_t> file = code_plan().file();
  float x[2] = {1, 2};
  const std::vector<int64_t> shape = {2};
  const mrt_tensor in = tensor(x, shape);
  for (int round = 0; round < 3; ++round) {
    Loaded a(file);
    {
      Loaded b(file);
      mrt_tensor out = {};
      CHECK_OK(mrt_session_run(b.session, &in, 1, &out, 1, nullptr));
    }
    mrt_tensor out = {};
    CHECK_OK(mrt_session_run(a.session, &in, 1, &out, 1, nullptr));
    CHECK(static_cast<float*>(out.data)[1] == 9);
  }
}

TEST(session, views_constants_and_shared_outputs) {
  PlanBuilder p;
  const uint32_t c = p.constant("c", {2}, {10, 20});
  const uint32_t x = p.value("x", Storage::input, {p.fixed(2)});
  const uint32_t y = p.value("y", Storage::arena, {p.fixed(4)});
  const uint32_t square = p.view("square", y, {p.fixed(2), p.fixed(2)}, p.fixed(0));
  const uint32_t tail = p.view("tail", square, {p.fixed(2)}, p.fixed(8));
  const uint32_t b = p.block("main");
  p.concat(b, "join", {x, c}, y);
  p.entry("main", {x}, {square, y, tail, c, x}, b);
  Loaded l(p.file());
  CHECK_OK(l.status);
  float data[2] = {1, 2};
  const std::vector<int64_t> shape = {2};
  const mrt_tensor in = tensor(data, shape);
  mrt_tensor out[5] = {};
  float mine[2] = {0};
  out[2].data = mine;
  out[2].bytes = sizeof(mine);
  CHECK_OK(mrt_session_run(l.session, &in, 1, out, 5, nullptr));
  const auto at = [&](int i, int k) { return static_cast<float*>(out[i].data)[k]; };
  CHECK(out[0].ndim == 2 && at(0, 3) == 20 && at(1, 3) == 20);
  CHECK(mine[0] == 10 && mine[1] == 20);
  CHECK(at(3, 1) == 20 && at(4, 0) == 1 && out[4].data != data);
  static_cast<float*>(out[3].data)[0] = 5;  // the session's copy, not the mapped file
}

TEST(session, view_beyond_its_base) {
  PlanBuilder p;
  const uint32_t n = p.symbol("n");
  const uint32_t x = p.value("x", Storage::input, {p.of(n)});
  const uint32_t v = p.view("v", x, {p.fixed(4)}, p.fixed(4));
  const uint32_t y = p.value("y", Storage::arena, {p.fixed(4)});
  const uint32_t b = p.block("main");
  p.concat(b, "join", {v}, y);
  p.entry("main", {x}, {y}, b);
  Loaded l(p.file());
  float data[5] = {1, 2, 3, 4, 5};
  mrt_tensor out = {};
  const std::vector<int64_t> four = {4}, five = {5};
  mrt_tensor in = tensor(data, four);
  CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, nullptr), MRT_ERROR_SHAPE);
  CHECK_SAYS(mrt_last_error(), "view 'v' reaches beyond the end of 'x'");
  in = tensor(data, five);
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
  CHECK(static_cast<float*>(out.data)[3] == 5);
}

TEST(session, view_between_elements) {
  for (const int64_t at : {1, 2, 6}) {
    PlanBuilder p;
    const uint32_t x = p.constant("x", {8}, std::vector<float>(8, 1.0f));
    const uint32_t v = p.view("v", x, {p.fixed(4)}, p.fixed(at));
    const uint32_t y = p.value("y", Storage::arena, {p.fixed(4)});
    const uint32_t b = p.block("main");
    p.concat(b, "join", {v}, y);
    p.entry("main", {}, {y}, b);
    Loaded l(p.file());
    mrt_tensor out = {};
    CHECK_EQ(mrt_session_run(l.session, nullptr, 0, &out, 1, nullptr), MRT_ERROR_SHAPE);
    CHECK_SAYS(mrt_last_error(), "view 'v' is not aligned to its elements");
  }
}

namespace {
// total (a state, starts at 100) = total + x; y = total.
PlanBuilder state_plan() {
  PlanBuilder p;
  const uint32_t start = p.constant("start", {1}, {100});
  const uint32_t x = p.value("x", Storage::input, {p.fixed(1)});
  const uint32_t total = p.value("total", Storage::state, {p.fixed(1)});
  const uint32_t y = p.value("y", Storage::arena, {p.fixed(1)});
  p.plan.states.push_back({"total", total, static_cast<int64_t>(start)});
  const uint32_t b = p.block("main");
  p.code(b, "add", {total, x}, {y});
  p.step(b, plan::StepKind::copy, "keep", "", {y}, {total});
  p.entry("main", {x}, {y}, b);
  p.plan.entries[0].reads = p.plan.entries[0].writes = {0};
  p.with_code();
  return p;
}
}  // namespace

TEST(session, states) {
  Loaded l(state_plan().file());
  CHECK_OK(l.status);
  float x = 1;
  const std::vector<int64_t> shape = {1};
  const mrt_tensor in = tensor(&x, shape);
  mrt_tensor out = {};
  CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, nullptr), MRT_ERROR_NO_STATE);
  CHECK_SAYS(mrt_last_error(), "mrt_state_create");
  mrt_state *a = nullptr, *b = nullptr;
  CHECK_OK(mrt_state_create(l.program, &a));
  const auto run = [&](mrt_state* state) {
    mrt_run_options options = {sizeof(options), 0, 0, nullptr, state};
    mrt_tensor y = {};
    CHECK_OK(mrt_session_run(l.session, &in, 1, &y, 1, &options));
    return *static_cast<float*>(y.data);
  };
  CHECK_EQ(run(a), 101.0f);
  CHECK_EQ(run(a), 102.0f);
  CHECK_OK(mrt_state_clone(a, &b));
  CHECK_EQ(run(a), 103.0f);
  CHECK_EQ(run(b), 103.0f);
  CHECK_EQ(run(b), 104.0f);
  CHECK_OK(mrt_state_reset(a));
  CHECK_EQ(run(a), 101.0f);
  mrt_tensor view;
  CHECK_OK(mrt_state_value(b, 0, &view));
  CHECK(view.ndim == 1 && *static_cast<float*>(view.data) == 104);
  *static_cast<float*>(view.data) = 7;
  CHECK_EQ(run(b), 8.0f);
  CHECK_EQ(mrt_state_value(b, 1, &view), MRT_ERROR_INVALID_ARGUMENT);
  mrt_value_info info;
  CHECK_EQ(mrt_program_state_count(l.program), 1);
  CHECK_OK(mrt_program_state_info(l.program, 0, &info));
  CHECK_EQ(std::string(info.name), "total");
  Loaded other(state_plan().file());
  mrt_run_options options = {sizeof(options), 0, 0, nullptr, a};
  CHECK_EQ(mrt_session_run(other.session, &in, 1, &out, 1, &options), MRT_ERROR_INVALID_ARGUMENT);
  mrt_state_free(a);
  mrt_state_free(b);
}

TEST(session, profile) {
  mrt_session_options options = {sizeof(options), 1, 1, 0};
  Loaded l(code_plan().file(), &options);
  float x[4] = {0};
  const std::vector<int64_t> shape = {4};
  const mrt_tensor in = tensor(x, shape);
  mrt_tensor out = {};
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
  const mrt_step_record* records = nullptr;
  size_t count = 0;
  CHECK_OK(mrt_session_profile(l.session, &records, &count));
  CHECK_EQ(count, size_t{2});
  if (count == 2) {
    CHECK_EQ(std::string(records[1].kernel), "scale");
    CHECK(records[0].bytes == 36 && records[1].start_ns >= records[0].start_ns && records[0].duration_ns >= 0);
  }
  Loaded plain(code_plan().file());
  CHECK_EQ(mrt_session_profile(plain.session, &records, &count), MRT_ERROR_INVALID_ARGUMENT);
}

TEST(session, cancel_and_deadline) {
  Loaded l(code_plan().file());
  float x[4] = {0};
  const std::vector<int64_t> shape = {4};
  const mrt_tensor in = tensor(x, shape);
  mrt_tensor out = {};
  mrt_run_options options = {sizeof(options), 0, 1, nullptr, nullptr};
  CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, &options), MRT_ERROR_DEADLINE);
  options.deadline_ns = INT64_MAX;
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, &options));
  CHECK_OK(mrt_cancel_create(&options.cancel));
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, &options));
  mrt_cancel_set(options.cancel);
  CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, &options), MRT_ERROR_CANCELLED);
  mrt_cancel_clear(options.cancel);
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, &options));
  mrt_cancel_free(options.cancel);
}

TEST(session, layouts_are_kept_and_dropped) {
  mrt_session_options options = {sizeof(options), 1, 0, 2};
  Loaded l(code_plan().file(), &options);
  std::vector<float> x(64, 1.0f);
  for (int round = 0; round < 3; ++round)
    for (const int64_t n : {64, 3, 0, 17, 64}) {
      const std::vector<int64_t> shape = {n};
      const mrt_tensor in = tensor(x.data(), shape);
      mrt_tensor out = {};
      CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
      CHECK(out.shape[0] == n);
      for (int64_t i = 0; i < n; ++i) CHECK(static_cast<float*>(out.data)[i] == 6);
    }
}

// Two entries that share a constant; runs of both take turns in one session.
TEST(session, entries) {
  PlanBuilder p;
  const uint32_t n = p.symbol("n");
  const uint32_t c = p.constant("c", {2}, {10, 20});
  const uint32_t x = p.value("x", Storage::input, {p.of(n)}), z = p.value("z", Storage::input, {p.of(n)});
  const uint32_t more = p.expr(ExprOp::add, p.of(n), p.fixed(2));
  const uint32_t y = p.value("y", Storage::arena, {more}), w = p.value("w", Storage::arena, {more});
  const uint32_t front = p.block("front"), back = p.block("back");
  p.concat(front, "front", {c, x}, y);
  p.concat(back, "back", {z, c}, w);
  p.entry("front", {x}, {y}, front);
  p.entry("back", {z}, {w}, back);
  Loaded l(p.file());
  CHECK_OK(l.status);
  CHECK_EQ(mrt_program_entry_find(l.program, "back"), 1);
  float data[3] = {1, 2, 3};
  for (const int64_t extent : {3, 3, 1, 2})
    for (int32_t e = 0; e < 2; ++e) {
      const std::vector<int64_t> shape = {extent};
      const mrt_tensor in = tensor(data, shape);
      mrt_tensor out = {};
      mrt_run_options options = {sizeof(options), e, 0, nullptr, nullptr};
      CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, &options));
      const float* result = static_cast<float*>(out.data);
      CHECK(out.shape[0] == extent + 2 && result[e == 0 ? 2 : 0] == 1 && result[e == 0 ? 0 : extent] == 10);
    }
  mrt_tensor in = {}, out = {};
  mrt_run_options options = {sizeof(options), 2, 0, nullptr, nullptr};
  CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, &options), MRT_ERROR_INVALID_ARGUMENT);
}

TEST(session, a_kernel_step_with_the_wrong_number_of_tensors_does_not_load) {
  for (const int broken : {0, 1}) {
    PlanBuilder p = concat_plan();
    plan::Step& step = p.plan.blocks[0].steps[0];
    if (broken == 0) step.args.clear();
    if (broken == 1) step.args[0].kind = plan::ArgKind::absent;
    Loaded l(p.file());
    CHECK_EQ(l.status, MRT_ERROR_FORMAT);
    const std::string message = mrt_last_error();
    CHECK(message.find("(concat)") != std::string::npos && message.find(step.name) != std::string::npos);
  }
}
