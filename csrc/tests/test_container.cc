// The container and the plan's codec against damaged, truncated and foreign files.
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "artifact/plan.h"
#include "tests/check.h"
#include "tests/file_builder.h"

using namespace mrt;
using namespace mrt::test;
using plan::Storage;

namespace {

// y = concat(x, c): an input, a constant, a kernel.
PlanBuilder small_plan() {
  PlanBuilder p;
  const uint32_t n = p.symbol("n", 1, 100);
  const uint32_t c = p.constant("c", {2}, {10, 20});
  const uint32_t x = p.value("x", Storage::input, {p.of(n)});
  const uint32_t y = p.value("y", Storage::arena, {p.expr(plan::ExprOp::add, p.of(n), p.fixed(2))});
  const uint32_t b = p.block("main");
  p.concat(b, "join", {x, c}, y);
  p.entry("main", {x}, {y}, b);
  return p;
}

mrt_status load(const std::vector<uint8_t>& file, std::string* message = nullptr,
                const mrt_load_options* options = nullptr) {
  const AlignedBytes bytes(file);
  mrt_program* program = nullptr;
  const mrt_status status = mrt_program_load_memory(bytes.data(), bytes.size(), options, nullptr, nullptr, &program);
  if (message) *message = mrt_last_error();
  mrt_program_free(program);
  return status;
}

template <typename T>
void put(std::vector<uint8_t>* file, size_t at, T value) {
  std::memcpy(file->data() + at, &value, sizeof(value));
}

}  // namespace

TEST(container, loads) {
  std::string message;
  CHECK_EQ(load(small_plan().file(), &message), MRT_OK);
  CHECK_EQ(message, "");
}

TEST(container, every_truncation_is_refused) {
  const std::vector<uint8_t> file = small_plan().file();
  for (size_t size = 0; size < file.size(); size += size < 2000 ? 1 : 977) {
    std::string message;
    const mrt_status status = load({file.begin(), file.begin() + static_cast<long>(size)}, &message);
    CHECK(status == MRT_ERROR_FORMAT);
    CHECK(message.size() > 20);
  }
}

// Every bit of header, table, manifest and plan is under a hash or a check.
TEST(container, every_bit_flip_is_refused) {
  const std::vector<uint8_t> file = small_plan().file();
  uint64_t plan_end = 0, size = 0;
  std::memcpy(&plan_end, file.data() + 64 + 96 + 40, 8);
  std::memcpy(&size, file.data() + 64 + 96 + 48, 8);
  plan_end += size;
  std::vector<uint8_t> changed = file;
  for (size_t at = 0; at < plan_end; ++at) {
    const uint8_t bit = static_cast<uint8_t>(1u << (at % 8));
    changed[at] ^= bit;
    CHECK(load(changed) != MRT_OK);
    changed[at] ^= bit;
  }
  CHECK_EQ(load(changed), MRT_OK);
}

// Nor is a byte that no hash covers anything but zero: between sections, and behind the last one.
TEST(container, every_byte_of_padding_is_zero) {
  std::vector<uint8_t> file = small_plan().file();
  uint32_t count = 0;
  std::memcpy(&count, file.data() + 12, 4);
  file.resize(file.size() + 100);
  put<uint64_t>(&file, 16, file.size());
  CHECK_EQ(load(file), MRT_OK);
  size_t end = 64 + 96 * count, checked = 0;
  for (uint32_t i = 0; i <= count; ++i) {
    uint64_t begin = file.size(), size = 0;
    if (i < count) {
      std::memcpy(&begin, file.data() + 64 + 96 * i + 40, 8);
      std::memcpy(&size, file.data() + 64 + 96 * i + 48, 8);
    }
    for (size_t at = end; at < begin; ++at, ++checked) {
      file[at] ^= static_cast<uint8_t>(1u << (at % 8));
      std::string message;
      CHECK_EQ(load(file, &message), MRT_ERROR_FORMAT);
      CHECK_SAYS(message, i < count ? "a gap between sections" : "what follows the last section");
      file[at] = 0;
    }
    end = begin + size;
  }
  CHECK(checked > 2000);  // the weights begin on a multiple of 4,096
  CHECK_EQ(load(file), MRT_OK);
}

// Weights of 1 MiB and more are mapped alone on pages of 64 KiB; what has fewer is not padded to that, but may be, as
// it once was.
TEST(container, weights_begin_on_pages) {
  const PlanBuilder small = small_plan();
  const struct {
    size_t size, offset;
    const char* says;
  } cases[] = {
      {small.weights.size(), 65536, nullptr},
      {small.weights.size(), 8192, nullptr},
      {small.weights.size(), 4096 + 64, "on a multiple of 4096"},
      {(size_t{1} << 20) - 1, 4096, nullptr},
      {size_t{1} << 20, 4096, "on a multiple of 65536"},
      {size_t{1} << 20, 65536, nullptr},
  };
  for (const auto& c : cases) {
    PlanBuilder p = small;
    p.weights.resize(c.size);
    std::vector<uint8_t> file = p.file();
    const size_t entry = 64 + 96 * 2;
    uint64_t at = 0;
    std::memcpy(&at, file.data() + entry + 40, 8);
    if (at < c.offset)
      file.insert(file.begin() + at, c.offset - at, 0);
    else
      file.erase(file.begin() + c.offset, file.begin() + at);
    put<uint64_t>(&file, entry + 40, c.offset);
    put<uint64_t>(&file, 16, file.size());
    rehash_table(&file);
    std::string message;
    CHECK_EQ(load(file, &message), c.says ? MRT_ERROR_FORMAT : MRT_OK);
    if (c.says) CHECK_SAYS(message, c.says);
  }
}

TEST(container, weights_are_hashed_when_asked) {
  std::vector<uint8_t> file = small_plan().file();
  file.back() ^= 1;
  CHECK_EQ(load(file), MRT_OK);
  mrt_load_options options = {sizeof(options), MRT_CODE_ALLOW, MRT_VERIFY_FULL, nullptr, nullptr};
  std::string message;
  CHECK_EQ(load(file, &message, &options), MRT_ERROR_HASH);
  CHECK_SAYS(message, "weights");
}

TEST(container, newer_versions_are_refused_by_name) {
  std::string message;
  std::vector<uint8_t> file = small_plan().file();
  put<uint32_t>(&file, 8, 2);
  CHECK_EQ(load(file, &message), MRT_ERROR_VERSION);
  CHECK_SAYS(message, "format version 2");
  PlanBuilder p = small_plan();
  p.plan.version = 7;
  CHECK_EQ(load(p.file(), &message), MRT_ERROR_VERSION);
  CHECK_SAYS(message, "version 7");
  p = small_plan();
  p.more.push_back({99, {1, 2, 3}, "", 0});
  CHECK_EQ(load(p.file(), &message), MRT_ERROR_VERSION);
  CHECK_SAYS(message, "kind 99");
  p.more.back().flags = 1;
  CHECK_EQ(load(p.file()), MRT_OK);
}

TEST(container, table_rules) {
  const std::vector<uint8_t> file = small_plan().file();
  const auto with = [&](size_t at, auto value) {
    std::vector<uint8_t> changed = file;
    put(&changed, at, value);
    rehash_table(&changed);
    return load(changed);
  };
  CHECK_EQ(with(64 + 40, uint64_t{0}), MRT_ERROR_FORMAT);            // over the header
  CHECK_EQ(with(64 + 40, ~uint64_t{0}), MRT_ERROR_FORMAT);           // offset + size overflows
  CHECK_EQ(with(64 + 48, ~uint64_t{0}), MRT_ERROR_FORMAT);           // size
  CHECK_EQ(with(64 + 48, uint64_t{file.size()}), MRT_ERROR_FORMAT);  // beyond the end
  CHECK_EQ(with(64 + 88, uint8_t{1}), MRT_ERROR_FORMAT);             // reserved
  CHECK_EQ(with(64 + 8, uint8_t{0xFF}), MRT_ERROR_FORMAT);           // target is no text
  CHECK_EQ(with(64, uint32_t{2}), MRT_ERROR_FORMAT);                 // two plans
  CHECK_EQ(with(16, uint64_t{file.size() + 1}), MRT_ERROR_FORMAT);   // file size
  CHECK_EQ(with(12, uint32_t{0}), MRT_ERROR_FORMAT);                 // no sections
  CHECK_EQ(with(12, uint32_t{257}), MRT_ERROR_FORMAT);
  CHECK_EQ(load({}), MRT_ERROR_FORMAT);
  CHECK_EQ(load({'P', 'K', 3, 4, 0, 0, 0, 0, 0, 0}), MRT_ERROR_FORMAT);
}

TEST(container, paths) {
  mrt_program* program = nullptr;
  CHECK_EQ(mrt_program_load("/tmp", nullptr, &program), MRT_ERROR_IO);
  CHECK_SAYS(mrt_last_error(), "is a directory");
  CHECK_EQ(mrt_program_load("/nonexistent/model.mrt", nullptr, &program), MRT_ERROR_IO);
  CHECK_EQ(mrt_program_load("/dev/null", nullptr, &program), MRT_ERROR_IO);
  CHECK_EQ(mrt_program_load(nullptr, nullptr, &program), MRT_ERROR_INVALID_ARGUMENT);
  char path[] = "/tmp/mrt_test_XXXXXX";
  const int fd = mkstemp(path);
  CHECK_EQ(mrt_program_load(path, nullptr, &program), MRT_ERROR_FORMAT);
  CHECK_SAYS(mrt_last_error(), "is empty");
  const std::vector<uint8_t> file = small_plan().file();
  CHECK(write(fd, file.data(), file.size()) == static_cast<ssize_t>(file.size()));
  close(fd);
  CHECK_OK(mrt_program_load(path, nullptr, &program));
  unlink(path);
  CHECK_SAYS(mrt_program_manifest(program), "\"format\":1");
  mrt_program_free(program);
}

TEST(container, misaligned_memory) {
  const AlignedBytes bytes(small_plan().file());
  mrt_program* program = nullptr;
  int released = 0;
  const auto release = [](void* user) { ++*static_cast<int*>(user); };
  CHECK_EQ(mrt_program_load_memory(bytes.data() + 4, bytes.size() - 4, nullptr, release, &released, &program),
           MRT_ERROR_INVALID_ARGUMENT);
  CHECK_EQ(released, 1);
  CHECK_OK(mrt_program_load_memory(bytes.data(), bytes.size(), nullptr, release, &released, &program));
  CHECK_OK(mrt_program_retain(program));
  mrt_program_free(program);
  CHECK_EQ(released, 1);
  mrt_program_free(program);
  CHECK_EQ(released, 2);
  // Whatever is wrong, what was lent is given back, once.
  mrt_load_options options = {};  // without struct_size
  CHECK_EQ(mrt_program_load_memory(bytes.data(), bytes.size(), nullptr, release, &released, nullptr),
           MRT_ERROR_INVALID_ARGUMENT);
  CHECK_EQ(mrt_program_load_memory(bytes.data(), bytes.size(), &options, release, &released, &program),
           MRT_ERROR_INVALID_ARGUMENT);
  options = {sizeof(options), static_cast<mrt_code_policy>(9)};
  CHECK_EQ(mrt_program_load_memory(bytes.data(), bytes.size(), &options, release, &released, &program),
           MRT_ERROR_INVALID_ARGUMENT);
  CHECK_EQ(mrt_program_load_memory(nullptr, 0, nullptr, release, &released, &program), MRT_ERROR_INVALID_ARGUMENT);
  CHECK_EQ(mrt_program_load_memory(bytes.data(), 10, nullptr, release, &released, &program), MRT_ERROR_FORMAT);
  CHECK_EQ(released, 7);
}

TEST(container, signature) {
  struct Seen {
    std::vector<uint8_t> table;
    std::string signature;
    int answer = 1;
  } seen;
  const auto check = [](void* user, const void* table, size_t bytes, const void* signature, size_t signature_bytes) {
    Seen* s = static_cast<Seen*>(user);
    s->table.assign(static_cast<const uint8_t*>(table), static_cast<const uint8_t*>(table) + bytes);
    s->signature.assign(static_cast<const char*>(signature), signature_bytes);
    return int32_t{s->answer};
  };
  mrt_load_options options = {sizeof(options), MRT_CODE_SIGNED, MRT_VERIFY_DEFAULT, check, &seen};
  PlanBuilder p = small_plan();
  CHECK_EQ(load(p.file(), nullptr, &options), MRT_ERROR_SIGNATURE);
  p.more.push_back({5, {'s', 'i', 'g'}, "", 0});
  CHECK_EQ(load(p.file(), nullptr, &options), MRT_OK);
  CHECK_EQ(seen.signature, "sig");
  const std::vector<uint8_t> first = seen.table;
  p.more.back().bytes = {'S', 'I', 'G'};
  CHECK_EQ(load(p.file(), nullptr, &options), MRT_OK);
  CHECK(seen.table == first);  // what is signed does not depend on the signature
  seen.answer = 0;
  CHECK_EQ(load(p.file(), nullptr, &options), MRT_ERROR_SIGNATURE);
  seen.answer = 1;
  std::vector<uint8_t> file = p.file();
  file[4096] ^= 1;  // a signature covers the weights
  CHECK_EQ(load(file, nullptr, &options), MRT_ERROR_HASH);
  // And what this machine or this version has no use for.
  p.more.push_back({4, {'c'}, "some-other-cpu", 0});
  p.more.push_back({99, {'n', 'e', 'w'}, "", 1});
  file = p.file();
  CHECK_EQ(load(file, nullptr, &options), MRT_OK);
  for (size_t i = 0; i < 2; ++i) {
    uint64_t at = 0;
    std::memcpy(&at, file.data() + 64 + 96 * (4 + i) + 40, 8);
    file[at] ^= 1;
    CHECK_EQ(load(file, nullptr, &options), MRT_ERROR_HASH);
    CHECK_EQ(load(file), MRT_OK);
    file[at] ^= 1;
  }
}

TEST(plan, round_trip) {
  const std::vector<uint8_t> bytes = plan::encode(small_plan().plan);
  plan::Plan decoded;
  CHECK_OK(plan::decode(bytes.data(), bytes.size(), &decoded));
  CHECK(plan::encode(decoded) == bytes);
  CHECK_EQ(decoded.values[0].name, "c");
}

TEST(plan, truncation_and_surplus) {
  std::vector<uint8_t> bytes = plan::encode(small_plan().plan);
  plan::Plan decoded;
  for (size_t size = 0; size < bytes.size(); ++size) CHECK(!plan::decode(bytes.data(), size, &decoded).ok());
  bytes.push_back(0);
  CHECK(!plan::decode(bytes.data(), bytes.size(), &decoded).ok());
}

TEST(plan, huge_counts_are_refused_before_allocation) {
  std::vector<uint8_t> bytes = plan::encode(small_plan().plan);
  for (size_t at = 4; at + 4 <= bytes.size(); ++at) {
    std::vector<uint8_t> changed = bytes;
    put<uint32_t>(&changed, at, 0xFFFFFFF0u);
    plan::Plan decoded;
    (void)plan::decode(changed.data(), changed.size(), &decoded).ok();  // refused or another plan, never a crash
  }
  // The name's length.
  put<uint32_t>(&bytes, 4, 0xFFFFFFF0u);
  plan::Plan decoded;
  CHECK(!plan::decode(bytes.data(), bytes.size(), &decoded).ok());
}

// With right hashes around a wrong plan only its validation stands between the file and the executor.
TEST(plan, mutated_plans_load_or_are_refused) {
  const PlanBuilder p = small_plan();
  const std::vector<uint8_t> good = plan::encode(p.plan);
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 3000; ++i) {
    std::vector<uint8_t> bytes = good;
    for (int k = 0; k < 1 + i % 3; ++k) bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
    const std::string manifest = "{}";
    const std::vector<uint8_t> file =
        write_container({{1, {manifest.begin(), manifest.end()}, "", 0}, {2, bytes, "", 0}, {3, p.weights, "", 0}});
    refused += load(file) != MRT_OK;
  }
  CHECK(refused > 1000);
}

namespace {
// What load says about a plan after a change.
template <typename F>
std::string refusal(F&& change) {
  PlanBuilder p = small_plan();
  change(&p);
  std::string message;
  return load(p.file(), &message) == MRT_OK ? "(loaded)" : message;
}
}  // namespace

TEST(plan, validation_says_what_is_wrong) {
  CHECK_SAYS(refusal([](PlanBuilder* p) {
               p->plan.exprs[0].a = 9;
               p->plan.exprs[0].op = plan::ExprOp::add;
             }),
             "does not come before it");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.values[0].offset = 1 << 20; }), "outside the weights section");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.values[0].bytes = 4; }), "smaller than its shape");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.values[0].dtype_bits = 7; }), "unknown dtype");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.values[1].kind = plan::ValueKind::sequence; }), "'sequence'");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.values[1].device = plan::DeviceKind::opencl; }), "'opencl'");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.values[1].dims.assign(13, 0); }), "at most 12");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.blocks[0].steps[0].target = "no_such"; }), "no_such");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.blocks[0].steps[0].packing = "x"; }), "packing 'x'");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.blocks[0].steps[0].outs = {0}; }), "a constant or the seed");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.blocks[0].steps[0].outs = {1}; }), "a constant or the seed");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.blocks[0].steps[0].args[0].index = 2; }), "before it is defined");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.blocks[0].steps.clear(); }), "before it is defined");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->concat(0, "again", {1}, 2); }), "defined twice");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.entries[0].outputs = {77}; }), "no value");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.entries[0].inputs = {}; }), "before it is defined");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.values[1].dims = {p->fixed(3)}; }), "neither an input nor a step");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->plan.entries.clear(); }), "entry points");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->step(0, plan::StepKind::launch, "l", "", {}, {}); }), "newer");
  CHECK_SAYS(refusal([](PlanBuilder* p) { p->step(0, plan::StepKind::branch, "b", "", {}, {}).blocks = {0}; }),
             "if step");
  CHECK_SAYS(refusal([](PlanBuilder* p) {
               const uint32_t v = p->view("v", 2, {0}, 0);
               p->plan.values[v].base = v;
             }),
             "has no base");
  CHECK_SAYS(refusal([](PlanBuilder* p) {
               const uint32_t v = p->view("v", 2, {0}, 0), w = p->view("w", v, {0}, 0);
               p->plan.values[v].base = w;
             }),
             "its own base");
}
