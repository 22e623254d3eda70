// What may be given to a run by name, beside its inputs.
#pragma once

#include <cstdint>

#include "program.h"

namespace maas_rt_python {

// How a run differs from a plain one.
struct RunOptions {
  int entry = 0;
  PyObject* out = nullptr;  // dict: output name -> buffer
  int64_t deadline_ns = 0;
  mrt_cancel* cancel = nullptr;
  mrt_state* state = nullptr;
  bool seeded = false;
  uint64_t seed = 0;
};

// Reads one option. False with a Python error set, as for the other functions here.
bool read_option(const Program& program, PyObject* name, PyObject* value, RunOptions* options);
// Whether the keys of `out` are names of the entry's outputs.
bool check_out_names(const EntrySpec& entry, PyObject* out);
// "x, y", for messages.
std::string names_of(const std::vector<ValueSpec>& values);

}  // namespace maas_rt_python
