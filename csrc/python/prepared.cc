// Inferences whose requests in JSON are alike but for their data: from a body's bytes to an answer's without an array
// between.
#include <pybind11/stl.h>

#include <charconv>

#include "json.h"
#include "json/text.h"
#include "json/write.h"
#include "passage.h"

namespace maas_rt_python {
namespace {

// Where the data of an input are: in the document, by their number, or the next so many bytes after it.
struct Source {
  bool binary = false;
  size_t data = 0;  // the number
};

// An output that is asked for. `head`: its members up to the numbers of its shape.
struct Target {
  size_t number = 0;
  const JsonType* type = nullptr;
  bool binary = false;
  std::string head;
};

struct PreparedState {
  explicit PreparedState(const py::object& runner) : route(runner) {}

  Route route;
  std::vector<Source> sources;  // of its inputs
  std::vector<Target> outputs;
  std::string head;   // of the answer's document, up to the first output
  size_t behind = 0;  // bytes of data behind a document
};

using Ranges = std::vector<std::pair<size_t, size_t>>;

char* put_number(char* out, int64_t number) { return std::to_chars(out, out + 20, number).ptr; }

class Exchange : public Passage {
 public:
  Exchange(std::shared_ptr<const PreparedState> of, const Bytes& body, size_t document, const Ranges& ranges)
      : Passage(std::shared_ptr<const Route>(of, &of->route)), of_(std::move(of)) {
    size_t end = document;
    for (size_t i = 0; i < of_->sources.size(); ++i) {
      const Source& source = of_->sources[i];
      const Route::Input& to = of_->route.inputs()[i];
      if (source.binary) {
        give(i, body.data() + end);
        end += to.bytes;
        continue;
      }
      const auto [first, last] = ranges.at(source.data);
      if (first > last || last > document) throw py::value_error("data outside of the document");
      const auto data = json_data(body.data() + first, last - first, to.shape, to.what, to.type->name);
      try {
        maas_rt_json::read_tensor(data, to.type->type, input(i));
      } catch (const maas_rt_json::Error& error) {
        throw_invalid(error.text);
      }
    }
  }

  // The answer's body, and how many bytes its document has if there is anything behind it.
  py::tuple body() {
    check_has_run();
    size_t most = of_->head.size() + 2;
    for (const Target& output : of_->outputs) {
      const mrt_tensor& found = result(output.number);
      most += output.head.size() + 96 + 21 * static_cast<size_t>(found.ndim);
      most += output.binary ? bytes_of(found) : maas_rt_json::most_bytes(output.type->type, elements(found));
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
        const mrt_tensor& found = result(output.number);
        if (output.binary) out = put(out, static_cast<const char*>(found.data), bytes_of(found));
      }
      return out;
    });
    leave();
    return py::make_tuple(made, binary ? py::object(py::int_(document)) : py::object(py::none()));
  }

 private:
  char* write_entry(const Target& output, char* out) const {
    const mrt_tensor& found = result(output.number);
    out = put(out, output.head.data(), output.head.size());
    for (int i = 0; i < found.ndim; ++i) {
      if (i) *out++ = ',';
      out = put_number(out, found.shape[i]);
    }
    if (output.binary) {
      out = put(out, "],\"parameters\":{\"binary_data_size\":");
      out = put_number(out, static_cast<int64_t>(bytes_of(found)));
      return put(out, "}}");
    }
    out = put(out, "],\"data\":");
    out = maas_rt_json::write_tensor(output.type->type, found.data, elements(found), out);
    return put(out, "}");
  }

  std::shared_ptr<const PreparedState> of_;
};

class Prepared {
 public:
  using Input = std::tuple<std::string, std::string, std::vector<int64_t>, std::string, bool, size_t>;
  using Output = std::tuple<std::string, std::string, bool, std::string>;

  Prepared(const py::object& runner, const std::string& head, const std::vector<Input>& inputs,
           const std::vector<Output>& outputs) {
    auto state = std::make_shared<PreparedState>(runner);
    state->head = head;
    for (const auto& [name, dtype, shape, what, binary, data] : inputs) {
      state->route.add_input(name, json_type(dtype), shape, what);
      const size_t bytes = state->route.inputs().back().bytes;
      if (binary && bytes != data) throw py::value_error(what + " has other bytes than its shape says");
      if (binary) state->behind += bytes;
      state->sources.push_back({binary, data});
    }
    state->route.check_complete();
    for (const auto& [name, dtype, binary, members] : outputs) {
      const JsonType& type = json_type(dtype);
      state->outputs.push_back({state->route.output(name, type), &type, binary, members});
    }
    state_ = std::move(state);
  }

  // Null where other data follow the document than it says.
  std::unique_ptr<Exchange> read(const py::object& body, size_t document, const Ranges& ranges) const {
    const Bytes bytes(body);
    if (document > bytes.size() || bytes.size() - document != state_->behind) return nullptr;
    return std::make_unique<Exchange>(state_, bytes, document, ranges);
  }

 private:
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
