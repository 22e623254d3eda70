// Stretches of steps that run a few images at a time: the same results at every batch and number of threads, less
// memory.
#include <cstring>
#include <vector>

#include "tests/check.h"
#include "tests/file_builder.h"

using namespace mrt;
using namespace mrt::test;
using plan::ExprOp;
using plan::StepKind;
using plan::Storage;

namespace {

constexpr int64_t kRows = 192, kColumns = 128;

// x [n, rows, columns]: turned = x transposed; wide = turned beside itself; y = wide transposed back, and, where
// `keep`, turned a second output; `stacked` = y behind itself along the batch, which no image can do alone.
struct Images {
  PlanBuilder p;

  explicit Images(bool keep, bool stack = false) {
    const uint32_t n = p.symbol("n", 1, 64);
    const auto value = [&](const char* name, Storage storage, int64_t rows, int64_t columns) {
      return p.value(name, storage, {p.of(n), p.fixed(rows), p.fixed(columns)});
    };
    const uint32_t x = value("x", Storage::input, kRows, kColumns);
    const uint32_t turned = value("turned", Storage::arena, kColumns, kRows);
    const uint32_t wide = value("wide", Storage::arena, kColumns, 2 * kRows);
    const uint32_t y = value("y", Storage::arena, 2 * kRows, kColumns);
    const uint32_t b = p.block("main");
    p.step(b, StepKind::kernel, "turn", "transpose", {x}, {turned}).attrs = {ints("perm", {0, 2, 1})};
    p.step(b, StepKind::kernel, "widen", "concat", {turned, turned}, {wide}).attrs = {ints("axis", {2})};
    p.step(b, StepKind::kernel, "back", "transpose", {wide}, {y}).attrs = {ints("perm", {0, 2, 1})};
    std::vector<uint32_t> outputs = {y};
    if (keep) outputs.push_back(turned);
    if (stack) {
      const uint32_t two_n = p.expr(ExprOp::mul, p.of(n), p.fixed(2));
      outputs = {p.value("stacked", Storage::arena, {two_n, p.fixed(2 * kRows), p.fixed(kColumns)})};
      p.concat(b, "stack", {y, y}, outputs[0]);
    }
    p.entry("main", {x}, outputs, b);
  }
};

std::vector<float> images(int64_t n) {
  std::vector<float> x(static_cast<size_t>(n * kRows * kColumns));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 1000003);
  return x;
}

// Whether y is every image of x below itself.
bool is_doubled(const float* y, const std::vector<float>& x, int64_t n) {
  const size_t image = static_cast<size_t>(kRows * kColumns) * sizeof(float);
  const uint8_t* at = reinterpret_cast<const uint8_t*>(y);
  for (int64_t i = 0; i < n; ++i, at += 2 * image) {
    const void* want = x.data() + i * kRows * kColumns;
    if (std::memcmp(at, want, image) != 0 || std::memcmp(at + image, want, image) != 0) return false;
  }
  return true;
}

}  // namespace

TEST(micro_batch, every_batch_gives_the_same) {
  for (const int32_t threads : {1, 2, 3}) {
    mrt_session_options options = {sizeof(options), threads, 0, 0};
    Loaded plain(Images(false).p.file(), &options), kept(Images(true).p.file(), &options);
    CHECK_OK(plain.status);
    CHECK_OK(kept.status);
    for (const int64_t n : {1, 2, 12, 13, 16, 36, 3}) {
      const std::vector<float> x = images(n);
      const std::vector<int64_t> shape = {n, kRows, kColumns};
      const mrt_tensor in = tensor(const_cast<float*>(x.data()), shape);
      mrt_tensor out[2] = {};
      CHECK_OK(mrt_session_run(plain.session, &in, 1, out, 1, nullptr));
      CHECK(out[0].shape[0] == n && is_doubled(static_cast<const float*>(out[0].data), x, n));
      out[0] = {};
      CHECK_OK(mrt_session_run(kept.session, &in, 1, out, 2, nullptr));
      CHECK(is_doubled(static_cast<const float*>(out[0].data), x, n));
      const float* turned = static_cast<const float*>(out[1].data);
      bool same = true;
      for (int64_t i = 0; i < n; ++i)
        for (int64_t r = 0; r < kRows; ++r)
          for (int64_t c = 0; c < kColumns; ++c)
            same = same &&
                   turned[(i * kColumns + c) * kRows + r] == x[static_cast<size_t>((i * kRows + r) * kColumns + c)];
      CHECK(same);
    }
  }
}

TEST(micro_batch, a_step_that_needs_all_images_waits_for_them) {
  mrt_session_options options = {sizeof(options), 2, 0, 0};
  Loaded l(Images(false, true).p.file(), &options);
  const int64_t n = 24;
  const std::vector<float> x = images(n);
  const std::vector<int64_t> shape = {n, kRows, kColumns};
  const mrt_tensor in = tensor(const_cast<float*>(x.data()), shape);
  mrt_tensor out = {};
  CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
  const float* y = static_cast<const float*>(out.data);
  CHECK(out.shape[0] == 2 * n && is_doubled(y, x, n) && is_doubled(y + 2 * n * kRows * kColumns, x, n));
}

TEST(micro_batch, what_lives_within_a_stretch_takes_the_memory_of_a_few_images) {
  const int64_t n = 32;
  const std::vector<float> x = images(n);
  const std::vector<int64_t> shape = {n, kRows, kColumns};
  const mrt_tensor in = tensor(const_cast<float*>(x.data()), shape);
  const size_t image = static_cast<size_t>(kRows * kColumns) * sizeof(float);
  std::vector<float> y(static_cast<size_t>(2 * n * kRows * kColumns));
  for (const int32_t threads : {1, 2}) {
    mrt_session_options options = {sizeof(options), threads, 0, 0};
    Loaded l(Images(false).p.file(), &options);
    mrt_tensor out = {};
    out.data = y.data();
    out.bytes = y.size() * sizeof(float);
    CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
    CHECK(is_doubled(y.data(), x, n));
    CHECK(mrt_session_memory(l.session) < static_cast<size_t>(n) * image);  // turned and wide would be three times that
  }
}

TEST(micro_batch, a_profile_has_every_execution) {
  mrt_session_options options = {sizeof(options), 2, 1, 0};
  Loaded l(Images(false).p.file(), &options);
  const int64_t n = 32;
  const std::vector<float> x = images(n);
  const std::vector<int64_t> shape = {n, kRows, kColumns};
  const mrt_tensor in = tensor(const_cast<float*>(x.data()), shape);
  for (int i = 0; i < 2; ++i) {
    mrt_tensor out = {};
    CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
    const mrt_step_record* records = nullptr;
    size_t count = 0;
    CHECK_OK(mrt_session_profile(l.session, &records, &count));
    CHECK(count > 3 && count % 3 == 0);
    double bytes = 0;
    for (size_t k = 0; k < count; ++k) {
      bytes += records[k].bytes;
      CHECK(records[k].lane >= 0 && records[k].lane < records[k].lanes && records[k].lanes <= 2);
    }
    CHECK_EQ(bytes, static_cast<double>(n * kRows * kColumns) * 4 * (2 + 4 + 4));
  }
}

TEST(micro_batch, a_cancelled_run_leaves_nothing_behind) {
  for (const int32_t threads : {1, 2}) {
    mrt_session_options options = {sizeof(options), threads, 0, 0};
    Loaded l(Images(false).p.file(), &options);
    const int64_t n = 32;
    const std::vector<float> x = images(n);
    const std::vector<int64_t> shape = {n, kRows, kColumns};
    const mrt_tensor in = tensor(const_cast<float*>(x.data()), shape);
    mrt_tensor out = {};
    mrt_run_options run = {sizeof(run), 0, 1, nullptr, nullptr};  // a deadline long ago
    CHECK_EQ(mrt_session_run(l.session, &in, 1, &out, 1, &run), MRT_ERROR_DEADLINE);
    out = {};
    CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
    CHECK(is_doubled(static_cast<const float*>(out.data), x, n));
  }
}

// turned beside a part of it, or a constant of which there is more than its shape says.
TEST(micro_batch, a_view_out_of_place_is_refused_and_a_long_constant_is_not_cut) {
  const int64_t n = 24;
  const std::vector<float> x = images(n);
  const std::vector<int64_t> shape = {n, kRows, kColumns};
  const mrt_tensor in = tensor(const_cast<float*>(x.data()), shape);
  for (const int32_t threads : {1, 2}) {
    mrt_session_options options = {sizeof(options), threads, 0, 0};
    for (const int64_t offset : {int64_t{0}, int64_t{64}, int64_t{-1}}) {
      PlanBuilder p;
      const std::vector<uint32_t> turned_dims = {p.fixed(n), p.fixed(kColumns), p.fixed(kRows)};
      const uint32_t in_value = p.value("x", Storage::input, {p.fixed(n), p.fixed(kRows), p.fixed(kColumns)});
      const uint32_t turned = p.value("turned", Storage::arena, turned_dims);
      const uint32_t part = p.view("part", turned, turned_dims, p.fixed(offset));
      const uint32_t y = p.value("y", Storage::arena, {p.fixed(n), p.fixed(kRows), p.fixed(kColumns)});
      const uint32_t b = p.block("main");
      p.step(b, StepKind::kernel, "turn", "transpose", {in_value}, {turned}).attrs = {ints("perm", {0, 2, 1})};
      p.step(b, StepKind::kernel, "back", "transpose", {part}, {y}).attrs = {ints("perm", {0, 2, 1})};
      p.entry("main", {in_value}, {y}, b);
      Loaded l(p.file(), &options);
      mrt_tensor out = {};
      const mrt_status status = mrt_session_run(l.session, &in, 1, &out, 1, nullptr);
      CHECK_EQ(status, offset == 0 ? MRT_OK : MRT_ERROR_SHAPE);
      if (offset == 0) CHECK(std::memcmp(out.data, x.data(), x.size() * sizeof(float)) == 0);
    }
    PlanBuilder p;
    std::vector<float> more = images(n);
    more.resize(more.size() + 7 * static_cast<size_t>(n));
    const uint32_t in_value = p.value("x", Storage::input, {p.fixed(n), p.fixed(kRows), p.fixed(kColumns)});
    const uint32_t long_one = p.constant("long", {n, kRows, kColumns}, more);
    const uint32_t turned = p.value("turned", Storage::arena, {p.fixed(n), p.fixed(kColumns), p.fixed(kRows)});
    const uint32_t same = p.value("same", Storage::arena, {p.fixed(n), p.fixed(kRows), p.fixed(kColumns)});
    const uint32_t y = p.value("y", Storage::arena, {p.fixed(n), p.fixed(2 * kRows), p.fixed(kColumns)});
    const uint32_t b = p.block("main");
    p.step(b, StepKind::kernel, "turn", "transpose", {in_value}, {turned}).attrs = {ints("perm", {0, 2, 1})};
    p.step(b, StepKind::kernel, "back", "transpose", {turned}, {same}).attrs = {ints("perm", {0, 2, 1})};
    p.step(b, StepKind::kernel, "join", "concat", {same, long_one}, {y}).attrs = {ints("axis", {1})};
    p.entry("main", {in_value}, {y}, b);
    Loaded l(p.file(), &options);
    mrt_tensor out = {};
    CHECK_OK(mrt_session_run(l.session, &in, 1, &out, 1, nullptr));
    CHECK(is_doubled(static_cast<const float*>(out.data), x, n));
  }
}
