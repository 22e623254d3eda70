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

// The tensors of a run, from Python's arrays and back.
class RunTensors {
 public:
  explicit RunTensors(const EntrySpec& entry)
      : entry_(entry),
        views_(entry.inputs.size()),
        in_(entry.inputs.size()),
        outputs_(entry.outputs.size()),
        out_(entry.outputs.size()) {}

  // `inputs`: borrowed, in the entry's order. False with a Python error set.
  bool prepare(PyObject* const* inputs, const RunOptions& given) {
    for (size_t i = 0; i < entry_.inputs.size(); ++i) {
      if (!views_[i].view(inputs[i], "input", entry_.inputs[i].text.c_str(), &in_[i])) return false;
    }
    for (size_t i = 0; i < entry_.outputs.size(); ++i) {
      PyObject* buffer = given.out ? PyDict_GetItemWithError(given.out, entry_.outputs[i].name.ptr()) : nullptr;
      if (!buffer && given.out && PyErr_Occurred()) return false;
      if (!prepare_output(entry_.outputs[i], buffer, &outputs_[i], &out_[i])) return false;
    }
    return !given.out || check_apart(entry_, given.out, outputs_.data());
  }
  // After the run: a dict by name, or, for a call of a model with one output, that output. Null with a Python error
  // set.
  PyObject* results(bool call) {
    const size_t n = entry_.outputs.size();
    for (size_t i = 0; i < n; ++i) {
      if (!finish_output(entry_.outputs[i], out_[i], &outputs_[i])) return nullptr;
    }
    if (call && n == 1) return outputs_[0].array.release().ptr();
    PyObject* dict = PyDict_New();
    for (size_t i = 0; dict && i < n; ++i) {
      if (PyDict_SetItem(dict, entry_.outputs[i].name.ptr(), outputs_[i].array.ptr()) != 0) Py_CLEAR(dict);
    }
    return dict;
  }
  const mrt_tensor* in() { return in_.data(); }
  size_t in_count() const { return entry_.inputs.size(); }
  mrt_tensor* out() { return out_.data(); }
  size_t out_count() const { return entry_.outputs.size(); }

 private:
  const EntrySpec& entry_;
  Few<ArrayView, 4> views_;
  Few<mrt_tensor, 4> in_;
  Few<Output, 4> outputs_;
  Few<mrt_tensor, 4> out_;
};

mrt_run_options run_options(const RunOptions& given) {
  mrt_run_options options{};
  options.struct_size = sizeof(options);
  options.entry = given.entry;
  options.deadline_ns = given.deadline_ns;
  options.cancel = given.cancel;
  options.state = given.state;
  options.seeded = given.seeded;
  options.seed = given.seed;
  options.exact_outputs = 1;
  return options;
}

void set_run_error(mrt_status status) {
  if (status == MRT_ERROR_NO_STATE) {
    set_invalid(
        "the model keeps a state from run to run: make one with state = model.state() and give it to every "
        "run, as in model.run(inputs, state=state)");
  } else {
    set_status_error(status);
  }
}

PyObject* run(RunnerState& state, PyObject* const* inputs, const RunOptions& given, bool call) {
  RunTensors tensors(state.program->entries()[static_cast<size_t>(given.entry)]);
  if (!tensors.prepare(inputs, given)) return nullptr;
  Lease lease(state);
  if (!lease.session()) return nullptr;
  mrt_run_options options = run_options(given);
  Released released;
  options.poll = interruption();
  options.poll_user = &released;
  const mrt_status status =
      mrt_session_run(lease.session(), tensors.in(), tensors.in_count(), tensors.out(), tensors.out_count(), &options);
  released.end();
  if (status == MRT_OK) return tensors.results(call);
  if (!PyErr_Occurred()) set_run_error(status);  // else of a signal's handler
  return nullptr;
}

// ---- asynchronous runs ----

// A run that waits in the pool's queue, or is under way, and all that it needs until then.
struct Flight {
  explicit Flight(const EntrySpec& entry) : tensors(entry) {}
  RunTensors tensors;
  std::vector<py::object> owned;  // the runner, what is called in the end, and the options' values
};

// The GIL on a thread of the library. When the interpreter ends meanwhile, the thread stays where it is (Waiting).
class Acquired {
 public:
  Acquired() {
    Waiting waiting;
    state_ = PyGILState_Ensure();
    waiting.over();
  }
  ~Acquired() { PyGILState_Release(state_); }
  Acquired(const Acquired&) = delete;
  Acquired& operator=(const Acquired&) = delete;

 private:
  PyGILState_STATE state_;
};

// Calls settle(results, error) of which one is None.
void settle(Flight* flight, mrt_status status) {
  PyObject* results = status == MRT_OK ? flight->tensors.results(false) : nullptr;
  if (status != MRT_OK) set_run_error(status);
  py::object error = py::none();
  if (!results) {
    PyObject *type = nullptr, *value = nullptr, *trace = nullptr;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    error = py::reinterpret_steal<py::object>(value);
  }
  const auto given = results ? py::reinterpret_steal<py::object>(results) : py::object(py::none());
  const auto done = py::reinterpret_steal<py::object>(
      PyObject_CallFunctionObjArgs(flight->owned[1].ptr(), given.ptr(), error.ptr(), nullptr));
  if (!done) PyErr_WriteUnraisable(flight->owned[1].ptr());
}

void finished(void* user, mrt_status status, const char*) {
  if (g_exiting.load()) return;  // nobody is left to be told, and Python's objects are not to be touched any more
  Flight* flight = static_cast<Flight*>(user);
  Acquired acquired;
  settle(flight, status);
  delete flight;
}

// False with a Python error set. On success the flight is its own.
bool submit(RunnerState& state, std::unique_ptr<Flight> flight, const RunOptions& given) {
  mrt_run_options options = run_options(given);
  options.poll = [](void*) -> int32_t { return g_exiting.load(std::memory_order_relaxed); };
  RunTensors& tensors = flight->tensors;
  const mrt_status status = mrt_pool_submit(state.pool, tensors.in(), tensors.in_count(), tensors.out(),
                                            tensors.out_count(), &options, finished, flight.get());
  if (status == MRT_OK) {
    flight.release();
  } else {
    set_run_error(status);
  }
  return status == MRT_OK;
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

// What run and _submit are given, a dict of arrays by input name and options by name (`values` of `names`), for
// f(inputs in the entry's order, options). Null with a Python error set if they are wrong.
template <typename F>
PyObject* with_arguments(const RunnerState& state, PyObject* given, PyObject* const* values, PyObject* names, F f) {
  RunOptions options;
  const Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
  for (Py_ssize_t i = 0; i < named; ++i) {
    if (!read_option(*state.program, PyTuple_GET_ITEM(names, i), values[i], &options)) return nullptr;
  }
  const EntrySpec& entry = state.program->entries()[static_cast<size_t>(options.entry)];
  if (options.out && !check_out_names(entry, options.out)) return nullptr;
  const size_t n = entry.inputs.size();
  Few<PyObject*, 8> inputs(n);
  Few<py::object, 8> owned(n);  // another thread may change the dict
  Py_ssize_t found = 0;
  for (size_t i = 0; i < n; ++i) {
    inputs[i] = PyDict_GetItemWithError(given, entry.inputs[i].name.ptr());
    owned[i] = py::reinterpret_borrow<py::object>(inputs[i]);
    if (inputs[i]) ++found;
    if (!inputs[i] && PyErr_Occurred()) return nullptr;
  }
  if (found != PyDict_GET_SIZE(given)) {
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(given, &at, &key, &value);) {
      Few<PyObject*, 8> none(n);
      if (!PyUnicode_Check(key)) {
        set_invalid("the inputs' names are text, and one is %R", key);
        return nullptr;
      }
      if (!put_named(entry, key, value, none.data())) return nullptr;
    }
  }
  return check_complete(entry, inputs.data()) ? f(inputs.data(), options) : nullptr;
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
  return with_arguments(
      *state, args[0], args + nargs, kwnames,
      [&](PyObject* const* inputs, const RunOptions& options) { return run(*state, inputs, options, false); });
}

// runner._submit({name: array}, settle, ...): the same later, on a thread of the library.
PyObject* submit_method(PyObject* self, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames) {
  RunnerState* state = state_of(self);
  if (!state) return nullptr;
  if (nargs != 2 || !PyDict_Check(args[0]) || !state->pool) {
    set_invalid("_submit takes a dict of arrays by input name, and what is called in the end, and is a Model's");
    return nullptr;
  }
  return with_arguments(
      *state, args[0], args + nargs, kwnames, [&](PyObject* const* inputs, const RunOptions& options) -> PyObject* {
        auto flight = std::make_unique<Flight>(state->program->entries()[static_cast<size_t>(options.entry)]);
        if (!flight->tensors.prepare(inputs, options)) return nullptr;
        flight->owned = {py::reinterpret_borrow<py::object>(self), py::reinterpret_borrow<py::object>(args[1])};
        const Py_ssize_t named = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
        for (Py_ssize_t i = 0; i < named; ++i)
          flight->owned.push_back(py::reinterpret_borrow<py::object>(args[nargs + i]));
        if (!submit(*state, std::move(flight), options)) return nullptr;
        Py_RETURN_NONE;
      });
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

// Of a run that waits there are its arrays, which are the caller's, and a kilobyte.
constexpr int32_t kWaiting = 65536;

mrt_status make_pool(RunnerState& state, int32_t threads) {
  mrt_pool_options options{};
  options.struct_size = sizeof(options);
  options.threads = threads;
  options.waiting = kWaiting;
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
    {"_submit", as_method(submit_method), METH_FASTCALL | METH_KEYWORDS,
     "_submit(inputs, settle, **options): run later, on a thread of the library, which then calls settle(results, "
     "error)."},
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
  without_gil([this] {
    mrt_session_free(session);
    if (at_hand) mrt_pool_give(pool, at_hand);
    mrt_pool_free(pool);
  });
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
