// What the files of the Python module share: errors, dtypes, and tensors as views of Python arrays.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "maas_rt.h"

namespace maas_rt_python {

namespace py = pybind11;

// ---- errors ----

// Sets the exception of maas_rt._errors that belongs to a status of the C API; the message is mrt_last_error().
void set_status_error(mrt_status status);
// The same, thrown.
[[noreturn]] void throw_status(mrt_status status);
inline void check(mrt_status status) {
  if (status != MRT_OK) throw_status(status);
}
// Sets maas_rt.InvalidArgumentError with a printf-style sentence (PyUnicode_FromFormat's directives).
void set_invalid(const char* format, ...);

// ---- dtypes ----

inline bool same(mrt_dtype a, mrt_dtype b) { return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes; }
// "float32", "bfloat16", "int4", ...
std::string dtype_name(mrt_dtype dtype);
// The numpy dtype; a null object if numpy (with ml_dtypes where installed) has none.
py::object numpy_dtype(mrt_dtype dtype);
// The inverse, for dtypes of numpy itself and of ml_dtypes; false if it is not a tensor's.
bool from_numpy_dtype(PyObject* descr, mrt_dtype* out);

// ---- values of a program ----

struct ValueSpec {
  py::str name;
  std::string text;  // the name again, for messages
  mrt_dtype dtype;
  std::vector<int64_t> shape;  // -1: known only at run time
  bool fixed = true;           // no -1 in shape
  size_t bytes = 0;            // if fixed
  py::object descr;            // numpy's dtype; null if it has none
  py::tuple info;              // (name, dtype, shape of int | str, ((min, max), ...)) for TensorInfo
};

// ---- tensors ----

// A Python array seen as a tensor. Keeps what it looks into alive, and its own copy of shape and strides, so that it
// holds while other Python threads run.
class ArrayView {
 public:
  ArrayView() = default;
  ArrayView(const ArrayView&) = delete;
  ArrayView& operator=(const ArrayView&) = delete;
  ~ArrayView() { Py_XDECREF(owner_); }

  // Fills `out` from a numpy array, an object with __dlpack__ on the CPU, or one with __array_interface__; copies only
  // an array that is unaligned, byte-swapped, or strided between elements. Returns false with a Python error set.
  bool view(PyObject* object, const char* what, const char* name, mrt_tensor* out);
  // The same for a buffer to write into: writable, aligned, contiguous. `*copy` is set, and `out` left alone, where
  // the memory is writable but not such: the caller then writes elsewhere and copies.
  bool view_writable(PyObject* object, const char* name, mrt_tensor* out, bool* copy);

 private:
  bool view_numpy(PyObject* array, const char* what, const char* name, mrt_tensor* out);
  bool view_dlpack(PyObject* object, const char* what, const char* name, mrt_tensor* out);

  PyObject* owner_ = nullptr;
  int64_t shape_[MRT_MAX_RANK];
  int64_t strides_[MRT_MAX_RANK];
};

inline bool is_numpy(PyObject* object) {
  return PyObject_TypeCheck(object, py::detail::npy_api::get().PyArray_Type_) != 0;
}
// A new uninitialised array (new reference), large ones 64-byte aligned so that kernels write into them directly.
PyObject* new_array(const py::object& descr, int ndim, const int64_t* shape, size_t bytes);
// Bytes of a dense tensor.
size_t dense_bytes(mrt_dtype dtype, int ndim, const int64_t* shape);
// "(2, 3)"
std::string shape_text(int ndim, const int64_t* shape);

// ---- parts of the module ----

void define_program(py::module_& m);
void define_runner(py::module_& m);
void define_kernels(py::module_& m);
void define_json(py::module_& m);
void define_prepared(py::module_& m);
void define_messages(py::module_& m);
void define_counters(py::module_& m);

}  // namespace maas_rt_python
