// Writes small model.mrt files for tests: a plan put together by hand, its weights, and sections of any kind.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "artifact/plan.h"
#include "maas_rt.h"

namespace mrt {
namespace test {

// 64-byte aligned bytes, as mrt_program_load_memory wants them.
class AlignedBytes {
 public:
  explicit AlignedBytes(const std::vector<uint8_t>& bytes);
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::unique_ptr<uint8_t[]> memory_;
  uint8_t* data_;
  size_t size_;
};

struct RawSection {
  uint32_t kind;
  std::vector<uint8_t> bytes;
  std::string target;
  uint32_t flags = 0;
};
// Lays sections out as FORMAT.md says, hashes included.
std::vector<uint8_t> write_container(const std::vector<RawSection>& sections);
// Makes the hash of the table right again after a change to it.
void rehash_table(std::vector<uint8_t>* file);

struct PlanBuilder {
  plan::Plan plan;
  std::vector<uint8_t> weights;
  std::vector<RawSection> more;

  PlanBuilder();

  uint32_t symbol(const std::string& name, int64_t min = 0, int64_t max = -1, int64_t multiple = 1);
  uint32_t expr(plan::ExprOp op, int64_t a, int64_t b = 0);
  uint32_t fixed(int64_t value) { return expr(plan::ExprOp::constant, value); }
  uint32_t of(uint32_t symbol) { return expr(plan::ExprOp::symbol, symbol); }

  // dims are expressions.
  uint32_t value(const std::string& name, plan::Storage storage, const std::vector<uint32_t>& dims,
                 uint8_t code = MRT_FLOAT, uint8_t bits = 32);
  uint32_t view(const std::string& name, uint32_t base, const std::vector<uint32_t>& dims, uint32_t offset,
                uint8_t code = MRT_FLOAT, uint8_t bits = 32);
  template <typename T>
  uint32_t constant(const std::string& name, const std::vector<int64_t>& shape, const std::vector<T>& data,
                    uint8_t code, uint8_t bits) {
    return add_constant(name, shape, data.data(), data.size() * sizeof(T), code, bits);
  }
  uint32_t constant(const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& data) {
    return constant(name, shape, data, MRT_FLOAT, 32);
  }
  uint32_t add_constant(const std::string& name, const std::vector<int64_t>& shape, const void* data, size_t bytes,
                        uint8_t code, uint8_t bits);

  uint32_t block(const std::string& name);
  plan::Step& step(uint32_t block, plan::StepKind kind, const std::string& name, const std::string& target,
                   const std::vector<uint32_t>& args, const std::vector<uint32_t>& outs);
  // The contract `concat` along axis 0: the simplest kernel there is.
  plan::Step& concat(uint32_t block, const std::string& name, const std::vector<uint32_t>& args, uint32_t out);
  // code step: out = function(args), see code_fixture.c.
  plan::Step& code(uint32_t block, const std::string& function, const std::vector<uint32_t>& args,
                   const std::vector<uint32_t>& outs, const std::vector<uint32_t>& exprs = {});
  void entry(const std::string& name, const std::vector<uint32_t>& inputs, const std::vector<uint32_t>& outputs,
             uint32_t block);
  // Adds the shared object that the build made of code_fixture.c as the code section.
  void with_code();

  std::vector<uint8_t> file() const;
};

plan::Attr ints(const std::string& key, const std::vector<int64_t>& values);

// A loaded program and one session, freed at the end.
class Loaded {
 public:
  explicit Loaded(const std::vector<uint8_t>& file, const mrt_session_options* options = nullptr);
  ~Loaded();
  mrt_status status = MRT_OK;
  std::string message;
  mrt_program* program = nullptr;
  mrt_session* session = nullptr;

 private:
  AlignedBytes bytes_;
};

// A tensor over memory that lives longer.
template <typename T>
mrt_tensor tensor(T* data, const std::vector<int64_t>& shape, uint8_t code = MRT_FLOAT) {
  return {
      data, {code, static_cast<uint8_t>(8 * sizeof(T)), 1}, static_cast<int32_t>(shape.size()), shape.data(), nullptr,
      0};
}

}  // namespace test
}  // namespace mrt
