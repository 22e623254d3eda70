// The same for requests over gRPC: from the bytes of a ModelInferRequest to those of a ModelInferResponse.
//
// Source: https://protobuf.dev/programming-guides/encoding; the numbers of the fields are the Open Inference
// Protocol's.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "json.h"
#include "passage.h"

namespace maas_rt_python {
namespace {

enum Kind : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// Fields of ModelInferRequest, of its InferInputTensor, and of ModelInferResponse and its InferOutputTensor.
constexpr uint32_t kModelName = 1, kModelVersion = 2, kId = 3, kInputs = 5, kRawInputs = 7;
constexpr uint32_t kContents = 5;
constexpr uint32_t kOutputs = 5, kRawOutputs = 6;
constexpr uint32_t kShape = 3;

constexpr size_t kMostOutline = 1024;  // bytes of what is remembered of a request
constexpr size_t kMostNumber = 10;     // bytes of a number

struct Field {
  uint32_t number = 0;
  uint32_t kind = 0;
  std::string_view whole;
  std::string_view value;  // of kBytes
};

bool read_number(const char*& at, const char* end, uint64_t* out) {
  *out = 0;
  for (unsigned shift = 0; shift < 7 * kMostNumber && at < end; shift += 7) {
    const auto byte = static_cast<unsigned char>(*at++);
    *out |= static_cast<uint64_t>(byte & 127) << shift;
    if (byte < 128) return true;
  }
  return false;
}

// The field that begins at `at`, which is then behind it; false where there is none.
bool read_field(const char*& at, const char* end, Field* field) {
  const char* begin = at;
  uint64_t tag = 0, size = 0;
  if (!read_number(at, end, &tag)) return false;
  field->kind = tag & 7;
  if (tag >> 3 == 0 || tag >> 3 >= 1u << 29) return false;
  field->number = static_cast<uint32_t>(tag >> 3);
  if (field->kind == kVarint) {
    if (!read_number(at, end, &size)) return false;
    size = 0;
  } else if (field->kind == kBytes) {
    if (!read_number(at, end, &size)) return false;
  } else if (field->kind == kFixed32 || field->kind == kFixed64) {
    size = field->kind == kFixed32 ? 4 : 8;
  } else {
    return false;
  }
  if (size > static_cast<size_t>(end - at)) return false;
  field->value = {at, static_cast<size_t>(size)};
  at += size;
  field->whole = {begin, static_cast<size_t>(at - begin)};
  return true;
}

size_t number_size(uint64_t number) {
  size_t n = 1;
  for (; number > 127; number >>= 7) ++n;
  return n;
}

char* put_number(char* out, uint64_t number) {
  for (; number > 127; number >>= 7) *out++ = static_cast<char>(number | 128);
  *out++ = static_cast<char>(number);
  return out;
}

// The head of a field of so many bytes.
char* put_head(char* out, uint32_t number, size_t size) {
  *out++ = static_cast<char>(number << 3 | kBytes);
  return put_number(out, size);
}

bool is_plain(std::string_view text) {
  // ASCII, which is UTF-8, without a 0. (Whether a char has a sign is the machine's to say.)
  return std::all_of(text.begin(), text.end(), [](unsigned char each) { return each - 1u < 127; });
}

// A ModelInferRequest, its data and its id cut off what is the same in requests that are alike.
class Message {
 public:
  // Null where it is none, or is out of the ordinary: names and ids beyond ASCII, very much beside the data.
  static std::unique_ptr<Message> read(const py::bytes& body) {
    auto found = std::make_unique<Message>(body);
    return found->scan() ? std::move(found) : nullptr;
  }
  explicit Message(py::bytes body) : body_(std::move(body)) {}

  py::str model() const { return {model_.data(), model_.size()}; }
  py::object version() const {
    return version_.empty() ? py::object(py::none()) : py::object(py::str(version_.data(), version_.size()));
  }
  // None where data of it are `contents`.
  py::object outline() const { return has_contents_ ? py::object(py::none()) : py::object(py::bytes(outline_)); }
  std::string_view id() const { return id_; }
  const std::vector<std::string_view>& raw() const { return raw_; }

 private:
  bool scan() {
    const char* at = PyBytes_AS_STRING(body_.ptr());
    const char* end = at + PyBytes_GET_SIZE(body_.ptr());
    Field field;
    while (at < end) {
      if (!read_field(at, end, &field)) return false;
      if (field.kind == kBytes) {
        if (field.number == kRawInputs) {
          raw_.push_back(field.value);
          continue;
        }
        if (field.number == kId) {  // each of them, if there are several
          if (!is_plain(field.value)) return false;
          id_ = field.value;
          continue;
        }
        if (field.number == kModelName) model_ = field.value;
        if (field.number == kModelVersion) version_ = field.value;
        if (field.number == kInputs && !look_for_contents(field.value)) return false;
      }
      if (!has_contents_) {
        if (outline_.size() + field.whole.size() > kMostOutline) return false;
        outline_.append(field.whole);
      }
    }
    return is_plain(model_) && is_plain(version_);
  }
  bool look_for_contents(std::string_view input) {
    const char* at = input.data();
    const char* end = at + input.size();
    Field field;
    while (at < end) {
      if (!read_field(at, end, &field)) return false;
      has_contents_ |= field.number == kContents;
    }
    return true;
  }

  py::bytes body_;
  std::string outline_;
  std::string_view model_, version_, id_;
  std::vector<std::string_view> raw_;
  bool has_contents_ = false;
};

// An output that is asked for. `head`: the fields of its message before its shape.
struct Target {
  size_t number = 0;
  std::string head;
};

struct MessagesState {
  explicit MessagesState(const py::object& runner) : route(runner) {}

  Route route;
  std::vector<Target> outputs;
  std::string head;  // of the answer, before its id
};

class MessageExchange : public Passage {
 public:
  MessageExchange(std::shared_ptr<const MessagesState> of, const Message& message)
      : Passage(std::shared_ptr<const Route>(of, &of->route)), of_(std::move(of)), id_(message.id()) {
    for (size_t i = 0; i < message.raw().size(); ++i) give(i, message.raw()[i].data());
  }

  // The answer.
  py::bytes body() {
    check_has_run();
    size_t most = of_->head.size() + 1 + kMostNumber + id_.size();
    for (const Target& output : of_->outputs) {
      const mrt_tensor& found = result(output.number);
      most += output.head.size() + (static_cast<size_t>(found.ndim) + 3) * (1 + kMostNumber) + bytes_of(found);
    }
    py::bytes made = new_bytes(most, [&](char* out) {
      out = put(out, of_->head.data(), of_->head.size());
      if (!id_.empty()) out = put(put_head(out, kId, id_.size()), id_.data(), id_.size());
      for (const Target& output : of_->outputs) out = write(output, out);
      return out;
    });
    leave();
    return made;
  }

 private:
  char* write(const Target& output, char* out) const {
    const mrt_tensor& found = result(output.number);
    size_t shape = 0;
    for (int i = 0; i < found.ndim; ++i) shape += number_size(static_cast<uint64_t>(found.shape[i]));
    out = put_head(out, kOutputs, output.head.size() + (shape ? 1 + number_size(shape) + shape : 0));
    out = put(out, output.head.data(), output.head.size());
    if (shape) out = put_head(out, kShape, shape);
    for (int i = 0; i < found.ndim; ++i) out = put_number(out, static_cast<uint64_t>(found.shape[i]));
    out = put_head(out, kRawOutputs, bytes_of(found));
    return put(out, static_cast<const char*>(found.data), bytes_of(found));
  }

  std::shared_ptr<const MessagesState> of_;
  std::string id_;
};

class PreparedMessage {
 public:
  using Input = std::tuple<std::string, std::string, std::vector<int64_t>, std::string>;
  using Output = std::tuple<std::string, std::string, std::string>;

  PreparedMessage(const py::object& runner, const std::string& head, const std::vector<Input>& inputs,
                  const std::vector<Output>& outputs) {
    auto state = std::make_shared<MessagesState>(runner);
    state->head = head;
    for (const auto& [name, dtype, shape, what] : inputs) {
      state->route.add_input(name, json_type(dtype), shape, what);
    }
    state->route.check_complete();
    for (const auto& [name, dtype, fields] : outputs) {
      state->outputs.push_back({state->route.output(name, json_type(dtype)), fields});
    }
    state_ = std::move(state);
  }

  // Null where its data are not what it says.
  std::unique_ptr<MessageExchange> read(const Message& message) const {
    const auto& inputs = state_->route.inputs();
    if (message.raw().size() != inputs.size()) return nullptr;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (message.raw()[i].size() != inputs[i].bytes) return nullptr;
    }
    return std::make_unique<MessageExchange>(state_, message);
  }

 private:
  std::shared_ptr<const MessagesState> state_;
};

}  // namespace

void define_messages(py::module_& m) {
  py::class_<Message>(m, "Message")
      .def_static("read", &Message::read, py::arg("body"))
      .def_property_readonly("model", &Message::model)
      .def_property_readonly("version", &Message::version)
      .def_property_readonly("outline", &Message::outline);
  py::class_<MessageExchange>(m, "MessageExchange")
      .def("run", &MessageExchange::run, py::arg("deadline"))
      .def("body", &MessageExchange::body)
      .def_property_readonly("size", &MessageExchange::size);
  py::class_<PreparedMessage>(m, "PreparedMessage")
      .def(py::init<const py::object&, const std::string&, const std::vector<PreparedMessage::Input>&,
                    const std::vector<PreparedMessage::Output>&>(),
           py::arg("runner"), py::arg("head"), py::arg("inputs"), py::arg("outputs"))
      .def("read", &PreparedMessage::read, py::arg("message"));
}

}  // namespace maas_rt_python
