// Counts of the service in memory that others read: a call adds to several of them. Each is one step for other threads,
// since it keeps the GIL. Written against CPython's API, for a call costs less than pybind11's dispatch.
#include "binding.h"

namespace maas_rt_python {
namespace {

// A writable buffer of unsigned 64-bit numbers.
class Cells {
 public:
  ~Cells() {
    if (held_) PyBuffer_Release(&view_);
  }
  bool take(PyObject* object, const char* what, bool writable) {
    held_ = PyObject_GetBuffer(object, &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) == 0;
    if (held_ && view_.len % 8 == 0 && reinterpret_cast<uintptr_t>(view_.buf) % 8 == 0) return true;
    if (held_) PyErr_Format(PyExc_ValueError, "%s must be 64-bit numbers in their places", what);
    return false;
  }
  size_t size() const { return static_cast<size_t>(view_.len) / 8; }
  uint64_t* data() const { return static_cast<uint64_t*>(view_.buf); }

 private:
  Py_buffer view_{};
  bool held_ = false;
};

bool read_index(PyObject* object, size_t first, size_t size, size_t* out) {
  *out = PyLong_AsSize_t(object);
  if (PyErr_Occurred()) return false;
  if (*out < size && size - *out >= first) return true;
  PyErr_SetString(PyExc_IndexError, "there is no such cell");
  return false;
}

// count(cells, at, n, at, n, ...)
PyObject* count(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs < 1 || nargs % 2 == 0) {
    PyErr_SetString(PyExc_TypeError, "count takes cells, and then pairs of a place and a number");
    return nullptr;
  }
  Cells cells;
  if (!cells.take(args[0], "cells", true)) return nullptr;
  for (Py_ssize_t i = 1; i < nargs; i += 2) {
    size_t at = 0;
    if (!read_index(args[i], 1, cells.size(), &at)) return nullptr;
    const long long n = PyLong_AsLongLong(args[i + 1]);
    if (n == -1 && PyErr_Occurred()) return nullptr;
    uint64_t& cell = cells.data()[at];
    const uint64_t less = 0 - static_cast<uint64_t>(n);
    cell = n < 0 && cell < less ? 0 : cell + static_cast<uint64_t>(n);
  }
  Py_RETURN_NONE;
}

// observe(cells, bounds, at, value, at, value, ...)
PyObject* observe(PyObject*, PyObject* const* args, Py_ssize_t nargs) {
  if (nargs < 2 || nargs % 2 != 0) {
    PyErr_SetString(PyExc_TypeError, "observe takes cells, bounds, and then pairs of a place and a number");
    return nullptr;
  }
  Cells cells, bounds;
  if (!cells.take(args[0], "cells", true) || !bounds.take(args[1], "bounds", false)) return nullptr;
  for (Py_ssize_t i = 2; i < nargs; i += 2) {
    if (args[i + 1] == Py_None) continue;
    size_t at = 0;
    if (!read_index(args[i], bounds.size() + 2, cells.size(), &at)) return nullptr;
    const long long given = PyLong_AsLongLong(args[i + 1]);
    if (given == -1 && PyErr_Occurred()) return nullptr;
    const uint64_t value = given < 0 ? 0 : static_cast<uint64_t>(given);
    size_t bucket = 0;
    while (bucket < bounds.size() && bounds.data()[bucket] < value) ++bucket;
    cells.data()[at + bucket] += 1;
    cells.data()[at + bounds.size() + 1] += value;
  }
  Py_RETURN_NONE;
}

template <typename F>
PyCFunction as_function(F function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef kFunctions[] = {
    {"count", as_function(count), METH_FASTCALL, "Adds to cells, by their numbers; below 0 there is nothing."},
    {"observe", as_function(observe), METH_FASTCALL,
     "Adds values to histograms, by the numbers of their first cells: a count for each bound, one above them, the "
     "sum. None is no value."},
    {nullptr, nullptr, 0, nullptr}};

}  // namespace

void define_counters(py::module_& m) {
  if (PyModule_AddFunctions(m.ptr(), kFunctions) != 0) throw py::error_already_set();
}

}  // namespace maas_rt_python
