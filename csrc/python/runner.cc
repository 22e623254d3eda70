// Runner: the callable behind Model and Session. Written against CPython's API where a call passes, because the call of
// a small model costs less than pybind11's dispatch.
#include "runner.h"

#include <atomic>
#include <cstring>

#include "few.h"
#include "outputs.h"
#include "released.h"
#include "run_options.h"
// After Python.h, which it lacks.
#include <structmember.h>

namespace maas_rt_python {
namespace {

struct Runner {
  PyObject_HEAD vectorcallfunc vectorcall;
  RunnerState* state;
};

unsigned long g_main_thread = 0;         // the one on which Python runs signal handlers
std::atomic<bool> g_exiting{false};      // the interpreter is about to end
thread_local bool t_background = false;  // this thread is one of those that run_async starts runs on

// Runs on `inputs` (borrowed, in the entry's order). Returns a dict by name, or, for a call of a model with one output,
// that output.
PyObject* run(RunnerState& state, PyObject* const* inputs, const RunOptions& given, bool call) {
  const EntrySpec& entry = state.program->entries()[static_cast<size_t>(given.entry)];
  const size_t n_in = entry.inputs.size(), n_out = entry.outputs.size();
  Few<ArrayView, 4> views(n_in);
  Few<mrt_tensor, 4> in(n_in);
  for (size_t i = 0; i < n_in; ++i) {
    if (!views[i].view(inputs[i], "input", entry.inputs[i].text.c_str(), &in[i])) return nullptr;
  }
  Few<Output, 4> outputs(n_out);
  Few<mrt_tensor, 4> out(n_out);
  for (size_t i = 0; i < n_out; ++i) {
    PyObject* buffer = given.out ? PyDict_GetItemWithError(given.out, entry.outputs[i].name.ptr()) : nullptr;
    if (!buffer && given.out && PyErr_Occurred()) return nullptr;
    if (!prepare_output(entry.outputs[i], buffer, &outputs[i], &out[i])) return nullptr;
  }
  if (given.out && !check_apart(entry, given.out, outputs.data())) return nullptr;
  Lease lease(state);
  if (!lease.session()) return nullptr;
  mrt_run_options options{};
  options.struct_size = sizeof(options);
  options.entry = given.entry;
  options.deadline_ns = given.deadline_ns;
  options.cancel = given.cancel;
  options.state = given.state;
  options.seeded = given.seeded;
  options.seed = given.seed;
  options.exact_outputs = 1;
  Released released;
  options.poll = interruption();
  options.poll_user = &released;
  const mrt_status status = mrt_session_run(lease.session(), in.data(), n_in, out.data(), n_out, &options);
  released.end();
  if (status != MRT_OK) {
    if (PyErr_Occurred()) return nullptr;  // of a signal's handler
    if (status == MRT_ERROR_NO_STATE) {
      set_invalid(
          "the model keeps a state from run to run: make one with state = model.state() and give it to every "
          "run, as in model.run(inputs, state=state)");
      return nullptr;
    }
    set_status_error(status);
    return nullptr;
  }
  for (size_t i = 0; i < n_out; ++i) {
    if (!finish_output(entry.outputs[i], out[i], &outputs[i])) return nullptr;
  }
  if (call && n_out == 1) return outputs[0].array.release().ptr();
  PyObject* dict = PyDict_New();
  for (size_t i = 0; dict && i < n_out; ++i) {
    if (PyDict_SetItem(dict, entry.outputs[i].name.ptr(), outputs[i].array.ptr()) != 0) Py_CLEAR(dict);
  }
  return dict;
}

// ---- arguments ----

bool put_named(const EntrySpec& entry, PyObject* name, PyObject* value, PyObject** inputs) {
  for (size_t i = 0; i < entry.inputs.size(); ++i) {
    PyObject* own = entry.inputs[i].name.ptr();
    if (own != name && PyUnicode_Compare(own, name) != 0) continue;
    if (inputs[i]) {
      set_invalid("input '%s' is given twice", entry.inputs[i].text.c_str());
      return false;
    }
    inputs[i] = value;
    return true;
  }
  if (!PyErr_Occurred()) {
    set_invalid("the model has no input %R; its inputs are: %s", name, names_of(entry.inputs).c_str());
  }
  return false;
}

bool check_complete(const EntrySpec& entry, PyObject* const* inputs) {
  for (size_t i = 0; i < entry.inputs.size(); ++i) {
    if (inputs[i]) continue;
    set_invalid("input '%s' is missing; the inputs are: %s", entry.inputs[i].text.c_str(),
                names_of(entry.inputs).c_str());
    return false;
  }
  return true;
}

RunnerState* state_of(PyObject* self) {
  RunnerState* state = reinterpret_cast<Runner*>(self)->state;
  if (!state) set_invalid("this %s was not initialised: use maas_rt.load", Py_TYPE(self)->tp_name);
  return state;
}

// runner(x, ...), runner(name=x, ...)
PyObject* call(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* kwnames) {
  RunnerState* state = state_of(self);
  if (!state) return nullptr;
  const EntrySpec& entry = state->program->entries()[0];
  const size_t n = entry.inputs.size(), given = static_cast<size_t>(PyVectorcall_NARGS(nargsf));
  if (given == n && !kwnames) return run(*state, args, RunOptions{}, true);
  if (given > n) {
    set_invalid("the model was called with %zd inputs and has %zd: %s", given, n, names_of(entry.inputs).c_str());
    return nullptr;
  }
  Few<PyObject*, 8> inputs(n);
  for (size_t i = 0; i < given; ++i) inputs[i] = args[i];
  const Py_ssize_t named = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
  for (Py_ssize_t i = 0; i < named; ++i) {
    if (!put_named(entry, PyTuple_GET_ITEM(kwnames, i), args[given + static_cast<size_t>(i)], inputs.data())) {
      return nullptr;
    }
  }
  return check_complete(entry, inputs.data()) ? run(*state, inputs.data(), RunOptions{}, true) : nullptr;
}

// runner.run({name: array}, out=, deadline=, cancel=, state=, entry=, seed=)
PyObject* run_method(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  RunnerState* state = state_of(self);
  if (!state) return nullptr;
  if (nargs != 1 || !PyDict_Check(args[0])) {
    set_invalid(
        "run takes one dict of arrays by input name, and then options by name; to give arrays in order, call the "
        "model itself");
    return nullptr;
  }
  RunOptions options;
  const Py_ssize_t named = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
  for (Py_ssize_t i = 0; i < named; ++i) {
    if (!read_option(*state->program, PyTuple_GET_ITEM(kwnames, i), args[nargs + i], &options)) return nullptr;
  }
  const EntrySpec& entry = state->program->entries()[static_cast<size_t>(options.entry)];
  if (options.out && !check_out_names(entry, options.out)) return nullptr;
  const size_t n = entry.inputs.size();
  Few<PyObject*, 8> inputs(n);
  Few<py::object, 8> owned(n);  // another thread may change the dict
  Py_ssize_t found = 0;
  for (size_t i = 0; i < n; ++i) {
    inputs[i] = PyDict_GetItemWithError(args[0], entry.inputs[i].name.ptr());
    owned[i] = py::reinterpret_borrow<py::object>(inputs[i]);
    if (inputs[i]) ++found;
    if (!inputs[i] && PyErr_Occurred()) return nullptr;
  }
  if (found != PyDict_GET_SIZE(args[0])) {
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(args[0], &at, &key, &value);) {
      Few<PyObject*, 8> none(n);
      if (!PyUnicode_Check(key)) {
        set_invalid("the inputs' names are text, and one is %R", key);
        return nullptr;
      }
      if (!put_named(entry, key, value, none.data())) return nullptr;
    }
  }
  return check_complete(entry, inputs.data()) ? run(*state, inputs.data(), options, false) : nullptr;
}

// ---- the rest of the type ----

PyObject* create(PyTypeObject* type, PyObject*, PyObject*) {
  PyObject* self = type->tp_alloc(type, 0);
  if (self) reinterpret_cast<Runner*>(self)->vectorcall = call;
  return self;
}

mrt_status make_session(RunnerState& state, int32_t threads) {
  mrt_session_options options{};
  options.struct_size = sizeof(options);
  options.threads = threads;
  options.profile = state.profile;
  return mrt_session_create(state.program->handle(), &options, &state.session);
}

mrt_status make_pool(RunnerState& state, int32_t threads) {
  mrt_pool_options options{};
  options.struct_size = sizeof(options);
  options.threads = threads;
  return mrt_pool_create(state.program->handle(), &options, &state.pool);
}

int initialise(PyObject* self, PyObject* args, PyObject* kwargs) {
  static const char* names[] = {"program", "threads", "exclusive", "profile", nullptr};
  PyObject* program = nullptr;
  int threads = 0, exclusive = 0, profile = 0;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|ipp", const_cast<char**>(names), &program, &threads, &exclusive,
                                   &profile)) {
    return -1;
  }
  auto* runner = reinterpret_cast<Runner*>(self);
  if (runner->state) {
    set_invalid("a %s is initialised once", Py_TYPE(self)->tp_name);
    return -1;
  }
  try {
    auto state = std::make_unique<RunnerState>();
    state->program = py::handle(program).cast<std::shared_ptr<Program>>();
    state->program_object = py::reinterpret_borrow<py::object>(program);
    state->profile = profile;
    if (state->program->entries().empty()) {
      set_invalid("the model has no entry point, so there is nothing to run");
      return -1;
    }
    check(exclusive ? make_session(*state, threads) : make_pool(*state, threads));
    runner->state = state.release();
    return 0;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::cast_error&) {
    PyErr_Format(PyExc_TypeError, "a %s is made by maas_rt.load, not called with a %s", Py_TYPE(self)->tp_name,
                 Py_TYPE(program)->tp_name);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return -1;
}

void destroy(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  delete reinterpret_cast<Runner*>(self)->state;
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* program(PyObject* self, void*) {
  RunnerState* state = state_of(self);
  if (!state) return nullptr;
  Py_INCREF(state->program_object.ptr());
  return state->program_object.ptr();
}

PyObject* memory(PyObject* self, PyObject*) {
  RunnerState* state = state_of(self);
  if (!state) return nullptr;
  return PyLong_FromSize_t(state->session ? mrt_session_memory(state->session)
                                          : mrt_pool_memory(state->pool) + mrt_session_memory(state->at_hand));
}

PyObject* records(PyObject* self, PyObject*) {
  RunnerState* state = state_of(self);
  if (!state) return nullptr;
  try {
    if (!state->session || !state->profile) {
      set_invalid("only a profiled session has records");
      return nullptr;
    }
    const mrt_step_record* steps = nullptr;
    size_t count = 0;
    check(mrt_session_profile(state->session, &steps, &count));
    py::list out;
    for (size_t i = 0; i < count; ++i) {
      const mrt_step_record& s = steps[i];
      out.append(py::make_tuple(s.name, s.kernel, s.start_ns, s.duration_ns, s.flops, s.bytes, s.lane, s.lanes));
    }
    return out.release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  }
  return nullptr;
}

PyObject* seed(PyObject* self, PyObject*) {
  RunnerState* state = state_of(self);
  if (!state) return nullptr;
  uint64_t seed = 0;
  if (!state->session) {
    set_invalid("only a session has the seed of its last run");
    return nullptr;
  }
  const mrt_status status = mrt_session_seed(state->session, &seed);
  if (status == MRT_OK) return PyLong_FromUnsignedLongLong(seed);
  set_status_error(status);
  return nullptr;
}

template <typename F>
PyCFunction as_method(F function) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function));
}

PyMethodDef methods[] = {
    {"run", as_method(run_method), METH_FASTCALL | METH_KEYWORDS,
     "run(inputs, *, out=None, deadline=None, cancel=None, state=None, entry=None, seed=None) -> dict\n\n"
     "Runs on a dict of arrays by input name and returns a dict of arrays by output name.\n\n"
     "out: dict of writable arrays that results are written into. deadline: seconds from now after which the run "
     "stops\n"
     "between two steps. cancel: a CancelToken. state: a State of this model. entry: name of an entry point. seed: of\n"
     "the random numbers that the model draws, an integer from 0 to 2**64 - 1; None: the system gives one."},
    {"memory", as_method(memory), METH_NOARGS, "Bytes of arenas and scratch that idle sessions hold."},
    {"_records", as_method(records), METH_NOARGS,
     "Steps of the last run: (name, kernel, start, duration, flops, bytes)."},
    {"_seed", seed, METH_NOARGS, "The seed of a session's last run."},
    {nullptr, nullptr, 0, nullptr}};

PyGetSetDef getters[] = {{"_program", program, nullptr, nullptr, nullptr},
                         {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyMemberDef members[] = {{"__vectorcalloffset__", T_PYSSIZET, offsetof(Runner, vectorcall), READONLY, nullptr},
                         {nullptr, 0, 0, 0, nullptr}};

PyType_Slot slots[] = {{Py_tp_new, reinterpret_cast<void*>(create)},
                       {Py_tp_init, reinterpret_cast<void*>(initialise)},
                       {Py_tp_dealloc, reinterpret_cast<void*>(destroy)},
                       {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                       {Py_tp_methods, methods},
                       {Py_tp_getset, getters},
                       {Py_tp_members, members},
                       {Py_tp_doc, const_cast<char*>("Runs a program; what Model and Session are made of.")},
                       {0, nullptr}};

#ifndef Py_TPFLAGS_HAVE_VECTORCALL
#define Py_TPFLAGS_HAVE_VECTORCALL _Py_TPFLAGS_HAVE_VECTORCALL
#endif
PyType_Spec spec = {"maas_rt._native.Runner", sizeof(Runner), 0,
                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_VECTORCALL, slots};

PyTypeObject* g_type = nullptr;

}  // namespace

RunnerState::~RunnerState() {
  mrt_session_free(session);
  if (at_hand) mrt_pool_give(pool, at_hand);
  mrt_pool_free(pool);
}

RunnerState* runner_state(PyObject* object) {
  if (PyObject_TypeCheck(object, g_type)) return state_of(object);
  PyErr_Format(PyExc_TypeError, "a Model is needed, not a %s", Py_TYPE(object)->tp_name);
  return nullptr;
}

mrt_poll_fn interruption() {
  if (PyThread_get_thread_ident() == g_main_thread)
    return [](void* released) -> int32_t { return static_cast<Released*>(released)->check_signals(); };
  if (t_background) return [](void*) -> int32_t { return g_exiting.load(std::memory_order_relaxed); };
  return nullptr;
}

void define_runner(py::module_& m) {
  auto type = py::reinterpret_steal<py::object>(PyType_FromSpec(&spec));
  if (!type) throw py::error_already_set();
  g_type = reinterpret_cast<PyTypeObject*>(type.ptr());
  m.add_object("Runner", type);
  g_main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
#if !defined(_WIN32)
  pthread_atfork(nullptr, nullptr, [] { g_main_thread = PyThread_get_thread_ident(); });
#endif
  m.def("mark_background_thread", [] { t_background = true; });
  m.def("stop_background_runs", [] { g_exiting.store(true); });
}

}  // namespace maas_rt_python
