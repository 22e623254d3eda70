#include "run_options.h"

#include <cmath>
#include <ctime>

namespace maas_rt_python {
namespace {

bool read_deadline(PyObject* value, int64_t* out) {
  const double seconds = PyFloat_AsDouble(value);
  if (PyErr_Occurred() || std::isnan(seconds)) {
    PyErr_Clear();
    set_invalid("deadline is %R and must be a number of seconds from now", value);
    return false;
  }
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  const double ns = seconds * 1e9;
  const int64_t base = static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
  if (ns > 4e18) {
    *out = 0;  // over a century: none
  } else {
    *out = ns <= 0 ? 1 : base + static_cast<int64_t>(ns);
  }
  return true;
}

bool read_seed(PyObject* value, RunOptions* out) {
  const auto number =
      py::reinterpret_steal<py::object>(PyIndex_Check(value) && !PyBool_Check(value) ? PyNumber_Index(value) : nullptr);
  if (number) out->seed = PyLong_AsUnsignedLongLong(number.ptr());
  if (!number || PyErr_Occurred()) {
    PyErr_Clear();
    set_invalid("seed is %R and must be an integer from 0 to 2**64 - 1", value);
    return false;
  }
  out->seeded = true;
  return true;
}

}  // namespace

std::string names_of(const std::vector<ValueSpec>& values) {
  std::string names;
  for (const ValueSpec& value : values) names += (names.empty() ? "" : ", ") + value.text;
  return names.empty() ? "none" : names;
}

bool read_option(const Program& program, PyObject* name, PyObject* value, RunOptions* out) {
  if (PyUnicode_CompareWithASCIIString(name, "out") == 0) {
    if (value != Py_None && !PyDict_Check(value)) {
      set_invalid("out is a %s and must be a dict of buffers by output name", Py_TYPE(value)->tp_name);
      return false;
    }
    out->out = value == Py_None ? nullptr : value;
    return true;
  }
  const bool entry = PyUnicode_CompareWithASCIIString(name, "entry") == 0;
  const bool deadline = PyUnicode_CompareWithASCIIString(name, "deadline") == 0;
  const bool cancel = PyUnicode_CompareWithASCIIString(name, "cancel") == 0;
  const bool model_state = PyUnicode_CompareWithASCIIString(name, "state") == 0;
  const bool seed = PyUnicode_CompareWithASCIIString(name, "seed") == 0;
  if (!(entry || deadline || cancel || model_state || seed)) {
    set_invalid("run has no option %R; it has out, deadline, cancel, state, entry, seed", name);
    return false;
  }
  if (value == Py_None) return true;
  if (entry) {
    out->entry = program.find_entry(value);
    return out->entry >= 0;
  }
  if (deadline) return read_deadline(value, &out->deadline_ns);
  if (seed) return read_seed(value, out);
  if (cancel) {
    if (!py::isinstance<CancelToken>(value)) {
      set_invalid("cancel is a %s and must be a maas_rt.CancelToken", Py_TYPE(value)->tp_name);
      return false;
    }
    out->cancel = py::handle(value).cast<CancelToken&>().handle();
    return true;
  }
  if (!py::isinstance<State>(value)) {
    set_invalid("state is a %s and must be a State, from the model's state()", Py_TYPE(value)->tp_name);
    return false;
  }
  State& given = py::handle(value).cast<State&>();
  if (&given.program() != &program) {
    set_invalid("state belongs to another model: make one with this model's state()");
    return false;
  }
  out->state = given.handle();
  return true;
}

bool check_out_names(const EntrySpec& entry, PyObject* out) {
  PyObject *key, *value;
  for (Py_ssize_t at = 0; PyDict_Next(out, &at, &key, &value);) {
    bool found = false;
    for (const ValueSpec& spec : entry.outputs) {
      found = found || key == spec.name.ptr() || PyObject_RichCompareBool(key, spec.name.ptr(), Py_EQ) == 1;
    }
    if (!found) {
      set_invalid("the model has no output %R; its outputs are: %s", key, names_of(entry.outputs).c_str());
      return false;
    }
  }
  return true;
}

}  // namespace maas_rt_python
