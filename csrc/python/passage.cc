#include "passage.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "few.h"
#include "released.h"

namespace maas_rt_python {
namespace {

constexpr size_t kAlignment = 64;  // of the inputs: the kernels' best

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

size_t find(const std::vector<ValueSpec>& values, const std::string& name) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i].text == name) return i;
  }
  throw py::value_error("the model has no " + name);
}

// Its elements are in memory as those of the tensor in JSON are; numpy's bits of a bfloat16 are one.
void check_type(const ValueSpec& value, const JsonType& type) {
  const bool bfloat = value.dtype.code == MRT_BFLOAT && type.type == maas_rt_json::Type::kBfloat;
  if (!bfloat && !same(value.dtype, type.dtype)) throw py::value_error(value.text + " is no " + type.name);
}

}  // namespace

char* put(char* out, const char* text, size_t size) {
  if (size) std::memcpy(out, text, size);
  return out + size;
}

Route::Route(const py::object& runner) : runner_(runner_state(runner.ptr())), owner_(runner) {
  if (!runner_) throw py::error_already_set();
}

void Route::add_input(const std::string& name, const JsonType& type, const std::vector<int64_t>& shape,
                      const std::string& what) {
  Input input{find(entry().inputs, name), &type, shape, what, 0, memory_};
  check_type(entry().inputs[input.number], type);
  input.bytes = json_data(nullptr, 0, shape, what, type.name).count() * type.dtype.bits / 8;
  memory_ += aligned(std::max<size_t>(input.bytes, 1));
  inputs_.push_back(input);
}

size_t Route::output(const std::string& name, const JsonType& type) const {
  const size_t number = find(entry().outputs, name);
  check_type(entry().outputs[number], type);
  return number;
}

void Route::check_complete() const {
  for (size_t i = 0; i < entry().inputs.size(); ++i) {
    const auto given =
        std::count_if(inputs_.begin(), inputs_.end(), [&](const Input& each) { return each.number == i; });
    if (given != 1) throw py::value_error("each input of the model is to be given once");
  }
}

Passage::Passage(std::shared_ptr<const Route> route)
    : route_(std::move(route)),
      memory_(static_cast<char*>(std::aligned_alloc(kAlignment, std::max(route_->memory(), kAlignment)))) {
  if (!memory_) throw std::bad_alloc();
}

void Passage::give(size_t index, const char* data) {
  const Route::Input& to = route_->inputs()[index];
  put(input(index), data, to.bytes);
  if (to.type->type != maas_rt_json::Type::kBool) return;
  for (size_t i = 0; i < to.bytes; ++i) {
    const int byte = static_cast<unsigned char>(data[i]);
    if (byte <= 1) continue;
    throw_invalid(to.what + ": byte " + std::to_string(i) + " of its data is " + std::to_string(byte) +
                  ", and a BOOL is 0 or 1");
  }
}

void Passage::run(int64_t deadline) {
  const EntrySpec& entry = route_->entry();
  Few<mrt_tensor, 4> in(entry.inputs.size());
  for (const Route::Input& input : route_->inputs()) {
    mrt_tensor& tensor = in[input.number];
    tensor.data = memory_.get() + input.at;
    tensor.dtype = entry.inputs[input.number].dtype;
    tensor.ndim = static_cast<int32_t>(input.shape.size());
    tensor.shape = const_cast<int64_t*>(input.shape.data());
    tensor.bytes = input.bytes;
  }
  results_ = std::vector<mrt_tensor>(entry.outputs.size());
  lease_.emplace(route_->runner());
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

size_t Passage::size() const {
  size_t sum = 0;
  for (const Route::Input& input : route_->inputs()) sum += input.bytes;
  return sum;
}

void Passage::check_has_run() const {
  if (!lease_) throw py::value_error("there is nothing to be answered before a run");
}

}  // namespace maas_rt_python
