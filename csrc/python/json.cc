// JSON tensors of the service: requests to arrays and arrays to responses, without the GIL where they are large.
#include "json.h"

#include <pybind11/stl.h>

#include <optional>

#include "json/scan.h"
#include "json/write.h"
#include "released.h"

namespace maas_rt_python {
namespace {

using maas_rt_json::Type;

// From so many bytes on the GIL is given back: below, taking it again costs more than the work.
constexpr size_t kLarge = 16384;

constexpr JsonType kTypes[] = {
    {"bool", Type::kBool, {MRT_BOOL, 8, 1}},        {"int8", Type::kInt8, {MRT_INT, 8, 1}},
    {"int16", Type::kInt16, {MRT_INT, 16, 1}},      {"int32", Type::kInt32, {MRT_INT, 32, 1}},
    {"int64", Type::kInt64, {MRT_INT, 64, 1}},      {"uint8", Type::kUint8, {MRT_UINT, 8, 1}},
    {"uint16", Type::kUint16, {MRT_UINT, 16, 1}},   {"uint32", Type::kUint32, {MRT_UINT, 32, 1}},
    {"uint64", Type::kUint64, {MRT_UINT, 64, 1}},   {"float16", Type::kHalf, {MRT_FLOAT, 16, 1}},
    {"bfloat16", Type::kBfloat, {MRT_UINT, 16, 1}}, {"float32", Type::kFloat, {MRT_FLOAT, 32, 1}},
    {"float64", Type::kDouble, {MRT_FLOAT, 64, 1}},
};

// Runs f, without the GIL if it works on many bytes.
template <typename F>
auto work(size_t bytes, F f) {
  try {
    std::optional<Released> released;
    if (bytes >= kLarge) released.emplace();
    return f();
  } catch (const maas_rt_json::Error& error) {  // the GIL is taken again by now
    throw_invalid(error.text);
  }
}

py::object new_array_of(mrt_dtype dtype, const std::vector<int64_t>& shape) {
  const int ndim = static_cast<int>(shape.size());
  auto array = py::reinterpret_steal<py::object>(
      new_array(numpy_dtype(dtype), ndim, shape.data(), dense_bytes(dtype, ndim, shape.data())));
  if (!array) throw py::error_already_set();
  return array;
}

py::tuple scan(const py::object& body, bool response, size_t max_depth, size_t max_rest) {
  const Bytes bytes(body);
  const auto message = response ? maas_rt_json::Message::kResponse : maas_rt_json::Message::kRequest;
  const maas_rt_json::Scan found = work(
      bytes.size(), [&] { return maas_rt_json::scan_body(message, bytes.data(), bytes.size(), max_depth, max_rest); });
  py::list ranges;
  for (const auto& [begin, end] : found.data) ranges.append(py::make_tuple(begin, end));
  return py::make_tuple(py::bytes(found.rest), ranges);
}

py::object read(const py::object& text, const std::string& dtype, const std::vector<int64_t>& shape,
                const std::string& what) {
  const JsonType& type = json_type(dtype);
  const Bytes bytes(text);
  const maas_rt_json::Data data = json_data(bytes.data(), bytes.size(), shape, what, type.name);
  py::object array;
  void* out = nullptr;
  if (data.count() <= data.most_elements()) {  // else it is read for what is wrong with it
    array = new_array_of(type.dtype, shape);
    out = py::detail::array_proxy(array.ptr())->data;
  }
  work(bytes.size(), [&] { maas_rt_json::read_tensor(data, type.type, out); });
  return array;
}

py::tuple read_strings(const py::object& text, const std::vector<int64_t>& shape, const std::string& what) {
  const Bytes bytes(text);
  const maas_rt_json::Data data = json_data(bytes.data(), bytes.size(), shape, what, "string");
  const size_t count = data.count();
  py::object offsets;
  int64_t* bounds = nullptr;
  if (count <= data.most_elements()) {
    offsets = new_array_of({MRT_INT, 64, 1}, {static_cast<int64_t>(count) + 1});
    bounds = reinterpret_cast<int64_t*>(py::detail::array_proxy(offsets.ptr())->data);
  }
  py::bytes strings = new_bytes(bytes.size(), [&](char* out) {
    work(bytes.size(), [&] { maas_rt_json::read_strings(data, out, bounds); });
    return out + bounds[count];
  });
  return py::make_tuple(strings, offsets);
}

// A contiguous array as a tensor.
void view_dense(ArrayView* view, const py::object& array, const std::string& what, mrt_tensor* tensor) {
  if (!view->view(array.ptr(), "the array of", what.c_str(), tensor)) throw py::error_already_set();
  if (tensor->strides) throw py::value_error("the array must be contiguous");
}

size_t elements(const mrt_tensor& tensor) {
  size_t n = 1;
  for (int i = 0; i < tensor.ndim; ++i) n *= static_cast<size_t>(tensor.shape[i]);
  return n;
}

py::bytes write(const py::object& array, const std::string& dtype) {
  const JsonType& type = json_type(dtype);
  ArrayView view;
  mrt_tensor tensor{};
  view_dense(&view, array, dtype, &tensor);
  if (!same(tensor.dtype, type.dtype)) throw py::value_error("the array is no " + dtype);
  const size_t count = elements(tensor), most = maas_rt_json::most_bytes(type.type, count);
  return new_bytes(most, [&](char* out) {
    return work(most, [&] { return maas_rt_json::write_tensor(type.type, tensor.data, count, out); });
  });
}

py::bytes write_strings(const py::object& text, const py::object& offsets, const std::string& what) {
  const Bytes bytes(text);
  ArrayView view;
  mrt_tensor tensor{};
  view_dense(&view, offsets, what, &tensor);
  if (!same(tensor.dtype, {MRT_INT, 64, 1}) || tensor.ndim != 1 || tensor.shape[0] < 1) {
    throw py::value_error("offsets must be int64 of one dimension, one more than there are strings");
  }
  const auto count = static_cast<size_t>(tensor.shape[0] - 1);
  const auto* bounds = static_cast<const int64_t*>(tensor.data);
  return py::bytes(work(bytes.size() + 8 * count,
                        [&] { return maas_rt_json::write_strings(bytes.data(), bytes.size(), bounds, count, what); }));
}

}  // namespace

const JsonType& json_type(const std::string& dtype) {
  for (const JsonType& each : kTypes) {
    if (dtype == each.name) return each;
  }
  throw py::value_error(dtype + " is no type of JSON tensors");
}

void throw_invalid(const std::string& message) {
  const auto text = py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(message.data(), static_cast<Py_ssize_t>(message.size()), "backslashreplace"));
  if (text) set_invalid("%U", text.ptr());
  throw py::error_already_set();
}

maas_rt_json::Data json_data(const char* text, size_t size, const std::vector<int64_t>& shape, const std::string& what,
                             const char* type_name) {
  size_t count = 1;
  for (int64_t extent : shape) {
    if (extent < 0 || __builtin_mul_overflow(count, static_cast<size_t>(extent), &count) || count > SIZE_MAX / 16) {
      throw py::value_error("an extent of the shape is negative, or their product is too large");
    }
  }
  return {text, text + size, shape, what, type_name};
}

void define_json(py::module_& m) {
  m.def("json_scan", scan, py::arg("body"), py::arg("response"), py::arg("max_depth"), py::arg("max_rest"));
  m.def("json_read", read, py::arg("text"), py::arg("dtype"), py::arg("shape"), py::arg("what"));
  m.def("json_read_strings", read_strings, py::arg("text"), py::arg("shape"), py::arg("what"));
  m.def("json_write", write, py::arg("array"), py::arg("dtype"));
  m.def("json_write_strings", write_strings, py::arg("text"), py::arg("offsets"), py::arg("what"));
}

}  // namespace maas_rt_python
