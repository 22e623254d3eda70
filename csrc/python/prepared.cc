// Inferences whose requests are alike but for their data: from a body's bytes to an answer's without an array between.
#include <pybind11/stl.h>

#include <charconv>
#include <cstdlib>
#include <cstring>

#include "few.h"
#include "json.h"
#include "json/text.h"
#include "json/write.h"
#include "released.h"
#include "runner.h"

namespace maas_rt_python {
namespace {

constexpr size_t kAlignment = 64;  // of the inputs: the kernels' best

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// An input of the model: data in the document, by their number, or the next so many bytes after it.
struct Source {
  size_t number = 0;  // of the model's input
  const JsonType* type = nullptr;
  std::vector<int64_t> shape;
  std::string what;
  bool binary = false;
  size_t data = 0;  // the number
  size_t bytes = 0;
  size_t at = 0;  // in the memory of an exchange
};

// An output that is asked for. `head`: its members up to the numbers of its shape.
struct Target {
  size_t number = 0;
  const JsonType* type = nullptr;
  bool binary = false;
  std::string head;
};

struct PreparedState {
  RunnerState* runner = nullptr;
  py::object owner;  // of the runner
  std::vector<Source> inputs;
  std::vector<Target> outputs;
  std::string head;  // of the answer's document, up to the first output
  size_t memory = 0;
  size_t behind = 0;  // bytes of data behind a document
};

using Ranges = std::vector<std::pair<size_t, size_t>>;

struct FreeMemory {
  void operator()(char* memory) const { std::free(memory); }
};

char* put(char* out, const char* text, size_t size) {
  if (size) std::memcpy(out, text, size);
  return out + size;
}
template <size_t N>
char* put(char* out, const char (&text)[N]) {
  return put(out, text, N - 1);
}
char* put(char* out, int64_t number) { return std::to_chars(out, out + 20, number).ptr; }

// One request on its way through.
class Exchange {
 public:
  Exchange(std::shared_ptr<const PreparedState> of, const Bytes& body, size_t document, const Ranges& ranges)
      : of_(std::move(of)), memory_(static_cast<char*>(std::aligned_alloc(kAlignment, of_->memory))) {
    if (!memory_) throw std::bad_alloc();
    size_t end = document;
    for (const Source& input : of_->inputs) {
      char* out = memory_.get() + input.at;
      if (input.binary) {
        put(out, body.data() + end, input.bytes);
        end += input.bytes;
        if (input.type->type == maas_rt_json::Type::kBool) check_bools(input, out);
        continue;
      }
      const auto [first, last] = ranges.at(input.data);
      if (first > last || last > document) throw py::value_error("data outside of the document");
      const auto data = json_data(body.data() + first, last - first, input.shape, input.what, input.type->name);
      try {
        maas_rt_json::read_tensor(data, input.type->type, out);
      } catch (const maas_rt_json::Error& error) {
        throw_invalid(error.text);
      }
    }
  }

  // deadline: of CLOCK_MONOTONIC, in ns.
  void run(int64_t deadline) {
    const EntrySpec& entry = of_->runner->program->entries()[0];
    Few<mrt_tensor, 4> in(entry.inputs.size());
    for (const Source& input : of_->inputs) {
      mrt_tensor& tensor = in[input.number];
      tensor.data = memory_.get() + input.at;
      tensor.dtype = entry.inputs[input.number].dtype;
      tensor.ndim = static_cast<int32_t>(input.shape.size());
      tensor.shape = const_cast<int64_t*>(input.shape.data());
      tensor.bytes = input.bytes;
    }
    results_ = std::vector<mrt_tensor>(entry.outputs.size());
    lease_.emplace(*of_->runner);
    if (!lease_->session()) throw py::error_already_set();
    mrt_run_options options{};
    options.struct_size = sizeof(options);
    options.deadline_ns = deadline;
    Released released;
    options.poll = interruption();
    options.poll_user = &released;
    const mrt_status status =
        mrt_session_run(lease_->session(), in.data(), entry.inputs.size(), results_.data(), results_.size(), &options);
    released.end();
    if (status == MRT_OK) return;
    lease_.reset();
    if (PyErr_Occurred()) throw py::error_already_set();  // of a signal's handler
    throw_status(status);
  }

  // The answer's body, and how many bytes its document has if there is anything behind it.
  py::tuple body() {
    if (!lease_) throw py::value_error("there is nothing to be answered before a run");
    size_t most = of_->head.size() + 2;
    for (const Target& output : of_->outputs) {
      const mrt_tensor& result = results_[output.number];
      const size_t count = elements(result);
      most += output.head.size() + 96 + 21 * static_cast<size_t>(result.ndim);
      most += output.binary ? dense_bytes(result.dtype, result.ndim, result.shape)
                            : maas_rt_json::most_bytes(output.type->type, count);
    }
    size_t document = 0;
    bool binary = false;
    py::bytes made = new_bytes(most, [&](char* begin) {
      char* out = put(begin, of_->head.data(), of_->head.size());
      for (const Target& output : of_->outputs) {
        if (&output != of_->outputs.data()) *out++ = ',';
        out = write_entry(output, out);
        binary |= output.binary;
      }
      out = put(out, "]}");
      document = static_cast<size_t>(out - begin);
      for (const Target& output : of_->outputs) {
        const mrt_tensor& result = results_[output.number];
        if (output.binary) out = put(out, static_cast<const char*>(result.data), size_of(result));
      }
      return out;
    });
    lease_.reset();
    return py::make_tuple(made, binary ? py::object(py::int_(document)) : py::object(py::none()));
  }

  // Bytes of the inputs.
  size_t size() const {
    size_t sum = 0;
    for (const Source& input : of_->inputs) sum += input.bytes;
    return sum;
  }

 private:
  static void check_bools(const Source& input, const char* data) {
    for (size_t i = 0; i < input.bytes; ++i) {
      const int byte = static_cast<unsigned char>(data[i]);
      if (byte <= 1) continue;
      throw_invalid(input.what + ": byte " + std::to_string(i) + " of its data is " + std::to_string(byte) +
                    ", and a BOOL is 0 or 1");
    }
  }
  static size_t elements(const mrt_tensor& tensor) {
    size_t n = 1;
    for (int i = 0; i < tensor.ndim; ++i) n *= static_cast<size_t>(tensor.shape[i]);
    return n;
  }
  static size_t size_of(const mrt_tensor& tensor) { return dense_bytes(tensor.dtype, tensor.ndim, tensor.shape); }

  char* write_entry(const Target& output, char* out) const {
    const mrt_tensor& result = results_[output.number];
    out = put(out, output.head.data(), output.head.size());
    for (int i = 0; i < result.ndim; ++i) {
      if (i) *out++ = ',';
      out = put(out, result.shape[i]);
    }
    if (output.binary) {
      out = put(out, "],\"parameters\":{\"binary_data_size\":");
      out = put(out, static_cast<int64_t>(size_of(result)));
      return put(out, "}}");
    }
    out = put(out, "],\"data\":");
    out = maas_rt_json::write_tensor(output.type->type, result.data, elements(result), out);
    return put(out, "}");
  }

  std::shared_ptr<const PreparedState> of_;
  std::unique_ptr<char, FreeMemory> memory_;
  std::vector<mrt_tensor> results_;
  std::optional<Lease> lease_;  // until the results, which are its session's, are written
};

class Prepared {
 public:
  using Input = std::tuple<std::string, std::string, std::vector<int64_t>, std::string, bool, size_t>;
  using Output = std::tuple<std::string, std::string, bool, std::string>;

  Prepared(const py::object& runner, const std::string& head, const std::vector<Input>& inputs,
           const std::vector<Output>& outputs) {
    auto state = std::make_shared<PreparedState>();
    state->runner = runner_state(runner.ptr());
    if (!state->runner) throw py::error_already_set();
    state->owner = runner;
    state->head = head;
    const EntrySpec& entry = state->runner->program->entries()[0];
    for (const auto& [name, dtype, shape, what, binary, data] : inputs) {
      Source input{find(entry.inputs, name), &json_type(dtype), shape, what, binary, data, 0, state->memory};
      check_type(entry.inputs[input.number], *input.type);
      input.bytes = json_data(nullptr, 0, shape, what, dtype.c_str()).count() * input.type->dtype.bits / 8;
      if (binary && input.bytes != data) throw py::value_error(what + " has other bytes than its shape says");
      state->memory += aligned(std::max<size_t>(input.bytes, 1));
      if (binary) state->behind += input.bytes;
      state->inputs.push_back(input);
    }
    for (size_t i = 0; i < entry.inputs.size(); ++i) {
      size_t given = 0;
      for (const Source& input : state->inputs) given += input.number == i;
      if (given != 1) throw py::value_error("each input of the model is to be given once");
    }
    for (const auto& [name, dtype, binary, members] : outputs) {
      Target output{find(entry.outputs, name), &json_type(dtype), binary, members};
      check_type(entry.outputs[output.number], *output.type);
      state->outputs.push_back(output);
    }
    state->memory = std::max(state->memory, kAlignment);
    state_ = std::move(state);
  }

  // Null where other data follow the document than it says.
  std::unique_ptr<Exchange> read(const py::object& body, size_t document, const Ranges& ranges) const {
    const Bytes bytes(body);
    if (document > bytes.size() || bytes.size() - document != state_->behind) return nullptr;
    return std::make_unique<Exchange>(state_, bytes, document, ranges);
  }

 private:
  static size_t find(const std::vector<ValueSpec>& values, const std::string& name) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i].text == name) return i;
    }
    throw py::value_error("the model has no " + name);
  }
  // Its elements are in memory as those of the tensor in JSON are; numpy's bits of a bfloat16 are one.
  static void check_type(const ValueSpec& value, const JsonType& type) {
    const bool bfloat = value.dtype.code == MRT_BFLOAT && type.type == maas_rt_json::Type::kBfloat;
    if (!bfloat && !same(value.dtype, type.dtype)) throw py::value_error(value.text + " is no " + type.name);
  }

  std::shared_ptr<const PreparedState> state_;
};

}  // namespace

void define_prepared(py::module_& m) {
  py::class_<Exchange>(m, "Exchange")
      .def("run", &Exchange::run, py::arg("deadline"))
      .def("body", &Exchange::body)
      .def_property_readonly("size", &Exchange::size);
  py::class_<Prepared>(m, "Prepared")
      .def(py::init<const py::object&, const std::string&, const std::vector<Prepared::Input>&,
                    const std::vector<Prepared::Output>&>(),
           py::arg("runner"), py::arg("head"), py::arg("inputs"), py::arg("outputs"))
      .def("read", &Prepared::read, py::arg("body"), py::arg("document"), py::arg("ranges"));
}

}  // namespace maas_rt_python
