// What the files about JSON tensors share: types by name, bytes objects, errors.
#pragma once

#include <string>
#include <vector>

#include "binding.h"
#include "json/read.h"
#include "json/types.h"

namespace maas_rt_python {

struct JsonType {
  const char* name;
  maas_rt_json::Type type;
  mrt_dtype dtype;  // of its arrays; numpy has no bfloat16, whose arrays hold its bits
};

// Throws ValueError where there is none of this name.
const JsonType& json_type(const std::string& dtype);

// Throws maas_rt.InvalidArgumentError with these bytes, which may be no UTF-8.
[[noreturn]] void throw_invalid(const std::string& message);

// Text to be read as a tensor of that shape. Throws ValueError where there is no such tensor.
maas_rt_json::Data json_data(const char* text, size_t size, const std::vector<int64_t>& shape, const std::string& what,
                             const char* type_name);

// The bytes of an object with a buffer, which stay where they are while this lives.
class Bytes {
 public:
  explicit Bytes(py::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  }
  ~Bytes() { PyBuffer_Release(&view_); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  const char* data() const { return static_cast<const char*>(view_.buf); }
  size_t size() const { return static_cast<size_t>(view_.len); }

 private:
  Py_buffer view_;
};

// A new bytes object of at most `most` bytes that `fill` writes, given where to and returning the end. Pages of it that
// stay unused are never touched.
template <typename F>
py::bytes new_bytes(size_t most, F fill) {
  PyObject* made = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(most));
  if (!made) throw py::error_already_set();
  try {
    char* data = PyBytes_AS_STRING(made);
    const char* end = fill(data);
    if (_PyBytes_Resize(&made, end - data) != 0) throw py::error_already_set();
  } catch (...) {
    Py_XDECREF(made);
    throw;
  }
  return py::reinterpret_steal<py::bytes>(made);
}

}  // namespace maas_rt_python
