// What a binding of shapes costs, and the memory that it takes: values share it by lifetime, whoever decides their
// size.
#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "base/arena.h"
#include "runtime/free_list.h"
#include "tests/check.h"
#include "tests/file_builder.h"

using namespace mrt;
using namespace mrt::test;
using plan::ArgKind;
using plan::ExprOp;
using plan::StepKind;
using plan::Storage;

namespace {

// y = x by way of so many copies. The size n is that of the input, or else that of its first n elements, which a step
// binds.
PlanBuilder copies(int count, bool dynamic) {
  PlanBuilder p;
  const uint32_t n = p.symbol("n"), all = p.symbol("all");
  const uint32_t x = p.value("x", Storage::input, {p.of(dynamic ? all : n)});
  const uint32_t size = p.value("size", Storage::input, {}, MRT_INT, 64);
  const uint32_t b = p.block("main");
  uint32_t last = x;
  if (dynamic) {
    p.step(b, StepKind::bind, "size", "", {size}, {}).binds = {n};
    last = p.view("begin", x, {p.of(n)}, p.fixed(0));
  }
  for (int i = 0; i < count; ++i) {
    const uint32_t next = p.value("v", Storage::arena, {p.of(n)});
    p.concat(b, "copy", {last}, next);
    last = next;
  }
  p.entry("main", {x, size}, {last}, b);
  return p;
}

std::vector<float> counted(int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  return x;
}

// Runs on n of so many elements, and says whether they came out.
bool gives(const Loaded& l, const std::vector<float>& x, int64_t n) {
  const std::vector<int64_t> shape = {static_cast<int64_t>(x.size())};
  const mrt_tensor in[2] = {tensor(const_cast<float*>(x.data()), shape), tensor(&n, {}, MRT_INT)};
  mrt_tensor out = {};
  CHECK_OK(mrt_session_run(l.session, in, 2, &out, 1, nullptr));
  return out.shape[0] == n && std::memcmp(out.data, x.data(), static_cast<size_t>(n) * sizeof(float)) == 0;
}

}  // namespace

// bench/bindings.py says what a new one costs.
TEST(layout, more_sizes_than_layouts_are_kept_run_again_and_again) {
  mrt_session_options options = {sizeof(options), 1, 0, 0};
  Loaded l(copies(60, false).file(), &options);
  CHECK_OK(l.status);
  for (int pass = 0; pass < 2; ++pass)
    for (int64_t n = 20; n < 80; ++n)
      for (int i = 0; i < 2; ++i) CHECK(gives(l, counted(n), n));
}

TEST(layout, sizes_that_the_data_decides_share_memory_as_others_do) {
  constexpr int64_t kMany = 100000;
  const std::vector<float> x = counted(kMany);
  Loaded fixed(copies(20, false).file()), dynamic(copies(20, true).file());
  CHECK_OK(fixed.status);
  CHECK_OK(dynamic.status);
  for (int i = 0; i < 2; ++i) {
    CHECK(gives(fixed, x, kMany) && gives(dynamic, x, kMany));
    const size_t bytes = mrt_session_memory(fixed.session);
    CHECK(bytes < 4 * kMany * sizeof(float));
    CHECK(mrt_session_memory(dynamic.session) <= bytes + 4096);
  }
  // Other sizes, up and down, and back.
  const size_t bytes = mrt_session_memory(dynamic.session);
  for (const int64_t n : {int64_t{1}, kMany / 2, int64_t{0}, kMany}) CHECK(gives(dynamic, x, n));
  CHECK_EQ(mrt_session_memory(dynamic.session), bytes);
}

// v = copies of v, `trips` times, each through a branch: whatever the blocks took they give back.
TEST(layout, blocks_give_back_what_they_took) {
  PlanBuilder p;
  const uint32_t n = p.symbol("n"), all = p.symbol("all");
  const uint32_t x = p.value("x", Storage::input, {p.of(all)});
  const uint32_t size = p.value("size", Storage::input, {}, MRT_INT, 64);
  const uint32_t trips = p.constant("trips", {}, std::vector<int64_t>{9}, MRT_INT, 64);
  const uint32_t yes = p.constant("yes", {}, std::vector<uint8_t>{1}, MRT_BOOL, 8);
  const uint32_t i = p.value("i", Storage::arena, {}, MRT_INT, 64);
  const auto of_n = [&](const char* name) { return p.value(name, Storage::arena, {p.of(n)}); };
  const uint32_t start = of_n("start"), v = of_n("v"), chosen = of_n("chosen"), last = of_n("last"), y = of_n("y");
  const uint32_t main = p.block("main"), body = p.block("body"), then = p.block("then"), other = p.block("other");
  p.step(main, StepKind::bind, "size", "", {size}, {}).binds = {n};
  p.concat(main, "begin", {p.view("begin", x, {p.of(n)}, p.fixed(0))}, start);
  plan::Step& loop = p.step(main, StepKind::loop, "loop", "", {}, {last});
  loop.args = {{ArgKind::absent, 0}, {ArgKind::value, trips}, {ArgKind::value, start}};
  loop.blocks = {body};
  p.plan.blocks[body].params = {i, v};
  const auto chain = [&](uint32_t block, uint32_t from) {
    for (int k = 0; k < 10; ++k) {
      const uint32_t next = of_n("next");
      p.concat(block, "copy", {from}, next);
      from = next;
    }
    return from;
  };
  p.step(body, StepKind::branch, "choose", "", {yes}, {chosen}).blocks = {then, other};
  p.plan.blocks[then].results = {chain(then, v)};
  p.plan.blocks[other].results = {v};
  p.plan.blocks[body].results = {yes, chain(body, chosen)};
  p.concat(main, "end", {chain(main, last)}, y);
  p.entry("main", {x, size}, {y}, main);
  Loaded l(p.file());
  CHECK_OK(l.status);
  constexpr int64_t kMany = 50000;
  const std::vector<float> data = counted(kMany);
  for (const int64_t many : {kMany, kMany / 3, kMany}) CHECK(gives(l, data, many));
  // The output, the loop's start, parameter and result, what was chosen, and two of a chain at a time.
  CHECK(mrt_session_memory(l.session) <= 8 * kMany * sizeof(float));
}

TEST(layout, free_pieces_do_not_overlap_and_join_again) {
  std::mt19937 random(11);
  FreeList free;
  struct Piece {
    size_t offset, bytes;
  };
  std::vector<Piece> taken;
  size_t most = 0, now = 0;
  for (int round = 0; round < 4000; ++round) {
    if (taken.empty() || random() % 2 == 0) {
      const size_t bytes = 64 * (1 + random() % 50);
      const Piece piece{free.take(bytes), bytes};
      for (const Piece& other : taken)
        CHECK(piece.offset + piece.bytes <= other.offset || other.offset + other.bytes <= piece.offset);
      taken.push_back(piece);
      now += bytes;
    } else {
      const size_t which = random() % taken.size();
      free.give_back(taken[which].offset, taken[which].bytes);
      now -= taken[which].bytes;
      taken[which] = taken.back();
      taken.pop_back();
    }
    most = std::max(most, now);
    CHECK(free.high() >= most);
  }
  CHECK(free.high() < 2 * most);
  for (const Piece& piece : taken) free.give_back(piece.offset, piece.bytes);
  CHECK_EQ(free.take(1 << 20), size_t{0});  // all is one piece again
}
