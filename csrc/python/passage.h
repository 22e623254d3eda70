// Requests to a model that are run without arrays: their inputs lie in memory of their own, their results in the
// session's.
#pragma once

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "json.h"
#include "runner.h"

namespace maas_rt_python {

// Writes where there is room, and returns the end.
char* put(char* out, const char* text, size_t size);
template <size_t N>
char* put(char* out, const char (&text)[N]) {
  return put(out, text, N - 1);
}

// What is the same of all requests that are alike: what goes where.
class Route {
 public:
  // An input of the model.
  struct Input {
    size_t number = 0;
    const JsonType* type = nullptr;
    std::vector<int64_t> shape;
    std::string what;  // as "input 'x'"
    size_t bytes = 0;
    size_t at = 0;  // in the memory of a passage
  };

  explicit Route(const py::object& runner);
  // Throws ValueError where the model has none such.
  void add_input(const std::string& name, const JsonType& type, const std::vector<int64_t>& shape,
                 const std::string& what);
  // Its number.
  size_t output(const std::string& name, const JsonType& type) const;
  // Throws ValueError unless each input of the model was added once.
  void check_complete() const;

  const EntrySpec& entry() const { return runner_->program->entries()[0]; }
  RunnerState& runner() const { return *runner_; }
  const std::vector<Input>& inputs() const { return inputs_; }
  size_t memory() const { return memory_; }

 private:
  RunnerState* runner_;
  py::object owner_;  // of the runner
  std::vector<Input> inputs_;
  size_t memory_ = 0;
};

// One request on its way through.
class Passage {
 public:
  // It keeps the route, and what that belongs to, until it has given its session back.
  explicit Passage(std::shared_ptr<const Route> route);
  // deadline: of CLOCK_MONOTONIC, in ns.
  void run(int64_t deadline);
  // Bytes of the inputs.
  size_t size() const;

 protected:
  // Copies an input's data, all of its bytes. Throws InvalidArgumentError where they are none of its type.
  void give(size_t index, const char* data);
  char* input(size_t index) { return memory_.get() + route_->inputs()[index].at; }
  // Throws ValueError where there was no run.
  void check_has_run() const;
  const mrt_tensor& result(size_t number) const { return results_[number]; }
  // The results are not needed any more.
  void leave() { lease_.reset(); }

 private:
  struct FreeMemory {
    void operator()(char* memory) const { std::free(memory); }
  };

  std::shared_ptr<const Route> route_;
  std::unique_ptr<char, FreeMemory> memory_;
  std::vector<mrt_tensor> results_;
  std::optional<Lease> lease_;  // until the results, which are its session's, are written
};

inline size_t elements(const mrt_tensor& tensor) {
  size_t n = 1;
  for (int i = 0; i < tensor.ndim; ++i) n *= static_cast<size_t>(tensor.shape[i]);
  return n;
}
inline size_t bytes_of(const mrt_tensor& tensor) { return dense_bytes(tensor.dtype, tensor.ndim, tensor.shape); }

}  // namespace maas_rt_python
