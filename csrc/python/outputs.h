// Where the outputs of a run go: into the caller's buffers, into new arrays, or at first into the session's memory. The
// functions return false with a Python error set.
#pragma once

#include "binding.h"
#include "program.h"

namespace maas_rt_python {

// One of them.
struct Output {
  py::object array;         // the result, and what the caller gets
  py::object copy_to;       // the caller's buffer, if the result must be copied into it
  bool is_callers = false;  // array is the caller's buffer
  ArrayView view;
};

// Before the run: the caller's buffer, or a new array where the shape is known; else the session's memory.
bool prepare_output(const ValueSpec& spec, PyObject* buffer, Output* output, mrt_tensor* tensor);
// Buffers that results are copied into share no memory with others in the dict `out`; those that a run writes into are
// the library's to check.
bool check_apart(const EntrySpec& entry, PyObject* out, Output* outputs);
// After the run: a copy where the result lies in the session's memory, and the caller's buffers filled.
bool finish_output(const ValueSpec& spec, const mrt_tensor& tensor, Output* output);

}  // namespace maas_rt_python
