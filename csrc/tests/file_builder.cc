#include "tests/file_builder.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/sha256.h"

namespace mrt {
namespace test {

using plan::ArgKind;
using plan::ExprOp;
using plan::StepKind;
using plan::Storage;

AlignedBytes::AlignedBytes(const std::vector<uint8_t>& bytes)
    : memory_(new uint8_t[bytes.size() + 64]), size_(bytes.size()) {
  data_ = memory_.get() + (64 - reinterpret_cast<uintptr_t>(memory_.get()) % 64) % 64;
  if (!bytes.empty()) std::memcpy(data_, bytes.data(), bytes.size());
}

namespace {
template <typename T>
void put(std::vector<uint8_t>* file, size_t at, T value) {
  std::memcpy(file->data() + at, &value, sizeof(value));
}
}  // namespace

void rehash_table(std::vector<uint8_t>* file) {
  uint32_t count = 0;
  std::memcpy(&count, file->data() + 12, 4);
  // A test may count more sections than the file has room for.
  sha256(file->data() + 64, std::min<size_t>(count * size_t{96}, file->size() - 64), file->data() + 24);
}

std::vector<uint8_t> write_container(const std::vector<RawSection>& sections) {
  std::vector<uint8_t> file(64 + 96 * sections.size(), 0);
  std::memcpy(file.data(), "\x89MRT\r\n\x1a\n", 8);
  put<uint32_t>(&file, 8, 1);
  put<uint32_t>(&file, 12, static_cast<uint32_t>(sections.size()));
  for (size_t i = 0; i < sections.size(); ++i) {
    const RawSection& s = sections[i];
    const size_t alignment = s.kind != 3 ? 64 : s.bytes.size() < (1u << 20) ? 4096 : 65536;
    const size_t offset = (file.size() + alignment - 1) / alignment * alignment;
    file.resize(offset);
    file.insert(file.end(), s.bytes.begin(), s.bytes.end());
    const size_t entry = 64 + 96 * i;
    put<uint32_t>(&file, entry, s.kind);
    put<uint32_t>(&file, entry + 4, s.flags);
    std::memcpy(file.data() + entry + 8, s.target.data(), s.target.size());
    put<uint64_t>(&file, entry + 40, offset);
    put<uint64_t>(&file, entry + 48, s.bytes.size());
    sha256(s.bytes.data(), s.bytes.size(), file.data() + entry + 56);
  }
  put<uint64_t>(&file, 16, file.size());
  rehash_table(&file);
  return file;
}

PlanBuilder::PlanBuilder() {
  plan.version = plan::kPlanVersion;
  plan.name = "test";
}

uint32_t PlanBuilder::symbol(const std::string& name, int64_t min, int64_t max, int64_t multiple) {
  plan.symbols.push_back({name, min, max, multiple});
  return static_cast<uint32_t>(plan.symbols.size() - 1);
}

uint32_t PlanBuilder::expr(ExprOp op, int64_t a, int64_t b) {
  plan.exprs.push_back({op, a, b});
  return static_cast<uint32_t>(plan.exprs.size() - 1);
}

uint32_t PlanBuilder::value(const std::string& name, Storage storage, const std::vector<uint32_t>& dims, uint8_t code,
                            uint8_t bits) {
  plan::Value v;
  v.name = name;
  v.kind = storage == Storage::state ? plan::ValueKind::state : plan::ValueKind::tensor;
  v.dtype_code = code;
  v.dtype_bits = bits;
  v.storage = storage;
  v.dims = dims;
  plan.values.push_back(v);
  return static_cast<uint32_t>(plan.values.size() - 1);
}

uint32_t PlanBuilder::view(const std::string& name, uint32_t base, const std::vector<uint32_t>& dims, uint32_t offset,
                           uint8_t code, uint8_t bits) {
  const uint32_t v = value(name, Storage::view, dims, code, bits);
  plan.values[v].base = base;
  plan.values[v].offset = offset;
  return v;
}

uint32_t PlanBuilder::add_constant(const std::string& name, const std::vector<int64_t>& shape, const void* data,
                                   size_t bytes, uint8_t code, uint8_t bits) {
  std::vector<uint32_t> dims;
  for (const int64_t extent : shape) dims.push_back(fixed(extent));
  const uint32_t v = value(name, Storage::constant, dims, code, bits);
  weights.resize((weights.size() + 63) / 64 * 64);
  plan.values[v].offset = static_cast<int64_t>(weights.size());
  plan.values[v].bytes = static_cast<int64_t>(bytes);
  const uint8_t* p = static_cast<const uint8_t*>(data);
  weights.insert(weights.end(), p, p + bytes);
  return v;
}

uint32_t PlanBuilder::block(const std::string& name) {
  plan.blocks.emplace_back();
  plan.blocks.back().name = name;
  return static_cast<uint32_t>(plan.blocks.size() - 1);
}

plan::Step& PlanBuilder::step(uint32_t block, StepKind kind, const std::string& name, const std::string& target,
                              const std::vector<uint32_t>& args, const std::vector<uint32_t>& outs) {
  plan::Step s;
  s.kind = kind;
  s.name = name;
  s.target = target;
  for (const uint32_t a : args) s.args.push_back({ArgKind::value, a});
  s.outs = outs;
  plan.blocks[block].steps.push_back(s);
  return plan.blocks[block].steps.back();
}

plan::Step& PlanBuilder::concat(uint32_t block, const std::string& name, const std::vector<uint32_t>& args,
                                uint32_t out) {
  plan::Step& s = step(block, StepKind::kernel, name, "concat", args, {out});
  s.attrs.push_back(ints("axis", {0}));
  return s;
}

plan::Step& PlanBuilder::code(uint32_t block, const std::string& function, const std::vector<uint32_t>& args,
                              const std::vector<uint32_t>& outs, const std::vector<uint32_t>& exprs) {
  plan::Step& s = step(block, StepKind::code, function, function, args, outs);
  for (const uint32_t e : exprs) s.args.push_back({ArgKind::expression, e});
  return s;
}

void PlanBuilder::entry(const std::string& name, const std::vector<uint32_t>& inputs,
                        const std::vector<uint32_t>& outputs, uint32_t block) {
  plan::Entry e;
  e.name = name;
  e.inputs = inputs;
  e.outputs = outputs;
  e.block = block;
  plan.entries.push_back(e);
}

void PlanBuilder::with_code() {
#ifdef MRT_CODE_FIXTURE
  RawSection s{4, {}, "", 0};
#if defined(__x86_64__)
  s.target = "x86-64";
#elif defined(__aarch64__)
  s.target = "aarch64";
#else
  std::exit(77);  // no target has this CPU's name: the test is skipped
#endif
  std::FILE* file = std::fopen(MRT_CODE_FIXTURE, "rb");
  uint8_t buffer[4096];
  for (size_t n = 0; file && (n = std::fread(buffer, 1, sizeof(buffer), file)) > 0;)
    s.bytes.insert(s.bytes.end(), buffer, buffer + n);
  if (file) std::fclose(file);
  more.push_back(s);
#endif
}

std::vector<uint8_t> PlanBuilder::file() const {
  const std::string manifest = "{\"format\":1,\"name\":\"test\"}";
  std::vector<RawSection> sections;
  sections.push_back({1, {manifest.begin(), manifest.end()}, "", 0});
  sections.push_back({2, plan::encode(plan), "", 0});
  if (!weights.empty()) sections.push_back({3, weights, "", 0});
  for (const RawSection& s : more) sections.push_back(s);
  return write_container(sections);
}

plan::Attr ints(const std::string& key, const std::vector<int64_t>& values) {
  plan::Attr a;
  a.key = key;
  a.ints = values;
  return a;
}

Loaded::Loaded(const std::vector<uint8_t>& file, const mrt_session_options* options) : bytes_(file) {
  status = mrt_program_load_memory(bytes_.data(), bytes_.size(), nullptr, nullptr, nullptr, &program);
  message = mrt_last_error();
  if (status == MRT_OK) {
    status = mrt_session_create(program, options, &session);
    message = mrt_last_error();
  }
}

Loaded::~Loaded() {
  mrt_session_free(session);
  mrt_program_free(program);
}

}  // namespace test
}  // namespace mrt
