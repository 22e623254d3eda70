// The seed of a run: given, drawn, told; and what a plan may do with it.
#include <cstddef>
#include <cstring>
#include <future>
#include <vector>

#include "base/cpu.h"
#include "kernels/random/random_kernels.h"
#include "tests/check.h"
#include "tests/file_builder.h"

using namespace mrt;
using namespace mrt::test;
using plan::StepKind;
using plan::Storage;

namespace {

// x [1] -> 64 bits of noise, and the seed itself.
struct NoisePlan : PlanBuilder {
  uint32_t x, seed, y, main;
  NoisePlan() {
    x = value("x", Storage::input, {fixed(1)});
    seed = value("seed", Storage::seed, {fixed(1)}, MRT_UINT, 64);
    y = value("y", Storage::arena, {fixed(1)}, MRT_UINT, 64);
    main = block("main");
    step(main, StepKind::kernel, "noise", "random_bits_u64", {seed}, {y}).attrs = {ints("number", {5})};
    entry("main", {x}, {y, seed}, main);
  }
};

struct Noise {
  uint64_t y, seed;
};

Noise run(const Loaded& l, const mrt_run_options* options) {
  float x = 0;
  const std::vector<int64_t> shape = {1};
  const mrt_tensor in = tensor(&x, shape);
  mrt_tensor out[2] = {};
  CHECK_OK(mrt_session_run(l.session, &in, 1, out, 2, options));
  return {*static_cast<uint64_t*>(out[0].data), *static_cast<uint64_t*>(out[1].data)};
}

mrt_run_options seeded(uint64_t seed) {
  mrt_run_options options = {};
  options.struct_size = sizeof(options);
  options.seeded = 1;
  options.seed = seed;
  return options;
}

uint64_t expected(uint64_t seed) {
  const RandomStream stream = {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}, 0, 5};
  uint64_t bits[2];
  random_reference(RandomKind::bits_u64, stream, 0, bits);
  return bits[0];
}

}  // namespace

TEST(random, a_given_seed_decides) {
  Loaded l(NoisePlan().file());
  CHECK_OK(l.status);
  CHECK_EQ(mrt_program_draws(l.program), 1);
  CHECK_EQ(mrt_program_input_count(l.program, 0), 1);
  uint64_t none = 0;
  CHECK_EQ(mrt_session_seed(l.session, &none), MRT_ERROR_INVALID_ARGUMENT);
  CHECK_SAYS(mrt_last_error(), "no run of the session");
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}}) {
    const mrt_run_options options = seeded(seed);
    for (int i = 0; i < 2; ++i) {
      const Noise noise = run(l, &options);
      CHECK_EQ(noise.y, expected(seed));
      CHECK_EQ(noise.seed, seed);
    }
    uint64_t told = 7;
    CHECK_OK(mrt_session_seed(l.session, &told));
    CHECK_EQ(told, seed);
  }
}

TEST(random, a_run_without_a_seed_draws_one) {
  Loaded l(NoisePlan().file());
  mrt_run_options older = seeded(3);  // of a caller who knows no seeds: what lies behind its struct is not read
  older.struct_size = offsetof(mrt_run_options, seeded);
  std::vector<uint64_t> seen = {3};
  for (const mrt_run_options* options : {static_cast<mrt_run_options*>(nullptr), &older, &older}) {
    const Noise noise = run(l, options);
    uint64_t told = 0;
    CHECK_OK(mrt_session_seed(l.session, &told));
    CHECK_EQ(told, noise.seed);
    CHECK_EQ(noise.y, expected(told));
    for (const uint64_t other : seen) CHECK(other != told);
    seen.push_back(told);
  }
}

TEST(random, asynchronous_runs_have_their_own_seed) {
  Loaded l(NoisePlan().file());
  float x = 0;
  const std::vector<int64_t> shape = {1};
  const mrt_tensor in = tensor(&x, shape);
  mrt_tensor out[2] = {};
  std::promise<mrt_status> done;
  {
    const mrt_run_options options = seeded(21);  // read before the call returns
    CHECK_OK(mrt_session_run_async(
        l.session, &in, 1, out, 2, &options,
        [](void* user, mrt_status status, const char*) {
          static_cast<std::promise<mrt_status>*>(user)->set_value(status);
        },
        &done));
  }
  CHECK_EQ(done.get_future().get(), MRT_OK);
  CHECK_EQ(*static_cast<uint64_t*>(out[0].data), expected(21));
}

TEST(random, a_program_that_draws_nothing) {
  PlanBuilder p;
  const uint32_t x = p.value("x", Storage::input, {p.fixed(1)}), y = p.value("y", Storage::arena, {p.fixed(2)});
  const uint32_t b = p.block("main");
  p.concat(b, "join", {x, x}, y);
  p.entry("main", {x}, {y}, b);
  Loaded l(p.file());
  CHECK_EQ(mrt_program_draws(l.program), 0);
  CHECK_EQ(mrt_program_draws(nullptr), 0);
  float value = 4;
  const std::vector<int64_t> shape = {1};
  const mrt_tensor in = tensor(&value, shape);
  mrt_tensor out = {};
  const mrt_run_options options = seeded(9);
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, &options));
  uint64_t told = 0;
  CHECK_EQ(mrt_session_seed(l.session, &told), MRT_ERROR_INVALID_ARGUMENT);
  CHECK_SAYS(mrt_last_error(), "draws no random numbers");
  CHECK_EQ(mrt_session_seed(l.session, nullptr), MRT_ERROR_INVALID_ARGUMENT);
}

TEST(random, damaged_seeds_are_refused) {
  const auto says = [](const PlanBuilder& p, const char* part) {
    Loaded l(p.file());
    CHECK_EQ(l.status, MRT_ERROR_FORMAT);
    CHECK_SAYS(l.message, part);
  };
  NoisePlan two;
  two.value("again", Storage::seed, {two.fixed(1)}, MRT_UINT, 64);
  says(two, "a second seed, 'again'");
  NoisePlan narrow;
  narrow.plan.values[narrow.seed].dtype_bits = 32;
  says(narrow, "'seed' is not uint64 of shape [1]");
  NoisePlan wide;
  wide.plan.values[wide.seed].dims = {wide.fixed(2)};
  says(wide, "'seed' is not uint64 of shape [1]");
  NoisePlan open;
  const uint32_t n = open.symbol("n");
  open.plan.values[open.seed].dims = {open.of(n)};
  says(open, "'seed' is not uint64 of shape [1]");
  NoisePlan written;
  written.step(written.main, StepKind::copy, "write", "", {written.y}, {written.seed});
  says(written, "which is an input, a constant or the seed");
}

// Of blocks whose number leaves 32 bits, which no tensor of a test is large enough for.
TEST(random, blocks_are_counted_in_64_bits) {
  const RandomStream stream = {{1, 2}, 3, 4};
  alignas(64) uint8_t have[kRandomBytes], want[kRandomBytes];
  for (const uint64_t first : {uint64_t{0}, (uint64_t{1} << 32) - 30, (uint64_t{5} << 32) - 1, ~uint64_t{0} - 63}) {
    for (int kind = 0; kind < 5; ++kind) {
      for (uint64_t i = 0; i < kRandomBlocks; ++i)
        random_reference(static_cast<RandomKind>(kind), stream, first + i, want + i * kRandomBlockBytes);
      for (const Kernel* row = kRandom.rows; row->table != nullptr; ++row) {
        if (!allows(cpu_features(), row->isa)) continue;
        kRandom[row->isa]->fill[kind](stream, first, have);
        CHECK(std::memcmp(have, want, sizeof(want)) == 0);
      }
    }
  }
}
