// Runner: the callable behind Model and Session. Written against CPython's API where a call passes, because the call of
// a small model costs less than pybind11's dispatch.
//
// Sessions are taken from and given back to the runner's pool while the GIL is held, so the pool needs no lock.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <ctime>
#include <new>

#include "program.h"
#include "released.h"
// After Python.h, which it lacks.
#include <structmember.h>

namespace maas_rt_python {
namespace {

// After a burst of parallel calls no more sessions than this are kept.
constexpr size_t kIdleSessions = 16;

struct RunnerState {
  std::shared_ptr<Program> program;
  py::object program_object;
  int32_t threads = 0;
  bool exclusive = false;  // one session for good (Session), instead of one for each run at a time (Model)
  bool profile = false;
  std::vector<mrt_session*> idle;

  ~RunnerState() {
    for (mrt_session* session : idle) mrt_session_free(session);
  }
};

struct Runner {
  PyObject_HEAD vectorcallfunc vectorcall;
  RunnerState* state;
};

// How a run differs from a plain one.
struct RunArgs {
  int entry = 0;
  PyObject* out = nullptr;  // dict: output name -> buffer
  int64_t deadline_ns = 0;
  mrt_cancel* cancel = nullptr;
  mrt_state* state = nullptr;
  bool seeded = false;
  uint64_t seed = 0;
};

// n elements on the stack, or on the heap where a model has very many inputs.
template <typename T, size_t N>
class Few {
 public:
  explicit Few(size_t n)
      : data_(n <= N ? reinterpret_cast<T*>(local_) : static_cast<T*>(operator new(n * sizeof(T)))), n_(n) {
    for (size_t i = 0; i < n_; ++i) new (data_ + i) T();
  }
  ~Few() {
    for (size_t i = 0; i < n_; ++i) data_[i].~T();
    if (reinterpret_cast<T*>(local_) != data_) operator delete(data_);
  }
  Few(const Few&) = delete;
  Few& operator=(const Few&) = delete;
  T& operator[](size_t i) { return data_[i]; }
  T* data() { return data_; }

 private:
  alignas(T) unsigned char local_[N * sizeof(T)];
  T* data_;
  size_t n_;
};

// A session of the runner's, given back (or kept, if it is the only one) when the run is over.
class Lease {
 public:
  explicit Lease(RunnerState& state) : state_(state) {
    if (!state.idle.empty()) {
      session_ = state.idle.back();
      if (!state.exclusive) state.idle.pop_back();
      return;
    }
    mrt_session_options options{};
    options.struct_size = sizeof(options);
    options.threads = state.threads;
    options.profile = state.profile;
    const mrt_status status = mrt_session_create(state.program->handle(), &options, &session_);
    if (status != MRT_OK) {
      set_status_error(status);
    } else if (state.exclusive) {
      state.idle.push_back(session_);
    }
  }
  ~Lease() {
    if (!session_ || state_.exclusive) return;
    if (state_.idle.size() < kIdleSessions) {
      state_.idle.push_back(session_);
    } else {
      mrt_session_free(session_);
    }
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  mrt_session* session() const { return session_; }

 private:
  RunnerState& state_;
  mrt_session* session_ = nullptr;
};

std::string names_of(const std::vector<ValueSpec>& values) {
  std::string names;
  for (const ValueSpec& value : values) names += (names.empty() ? "" : ", ") + value.text;
  return names.empty() ? "none" : names;
}

// Where one output of a run goes.
struct Output {
  py::object array;    // the result, and what the caller gets
  py::object copy_to;  // the caller's buffer, if the result must be copied into it
  bool given = false;  // array is the caller's buffer
  ArrayView view;
};

bool check_buffer(const ValueSpec& spec, const mrt_tensor& tensor) {
  if (!same(tensor.dtype, spec.dtype)) {
    set_invalid("the buffer for output '%s' has dtype %s and must have %s", spec.text.c_str(),
                dtype_name(tensor.dtype).c_str(), dtype_name(spec.dtype).c_str());
    return false;
  }
  bool fits = tensor.ndim == static_cast<int>(spec.shape.size());
  for (int i = 0; fits && i < tensor.ndim; ++i) fits = spec.shape[i] < 0 || spec.shape[i] == tensor.shape[i];
  if (!fits) {
    set_invalid("the buffer for output '%s' has shape %s and must have %S", spec.text.c_str(),
                shape_text(tensor.ndim, tensor.shape).c_str(), PyTuple_GetItem(spec.info.ptr(), 2));
  }
  return fits;
}

// A new array that the result is written into, of a shape that is known.
bool write_into_new(const ValueSpec& spec, int ndim, const py::ssize_t* shape, Output* output, mrt_tensor* tensor) {
  tensor->bytes = dense_bytes(spec.dtype, ndim, shape);
  output->array = py::reinterpret_steal<py::object>(new_array(spec.descr, ndim, shape, tensor->bytes));
  if (!output->array) return false;
  const auto* array = py::detail::array_proxy(output->array.ptr());
  tensor->data = array->data;
  tensor->dtype = spec.dtype;
  tensor->ndim = ndim;
  tensor->shape = array->dimensions;
  return true;
}

// Whether elements of an array with these strides may lie in one place: those of a step along one dimension reach no
// further than a step along the next longer one.
bool may_overlap(const py::detail::PyArray_Proxy& array, py::ssize_t item) {
  py::ssize_t reach = item;
  Few<int, 8> order(static_cast<size_t>(array.nd));
  for (int i = 0; i < array.nd; ++i) order[i] = i;
  std::sort(order.data(), order.data() + array.nd,
            [&](int a, int b) { return std::abs(array.strides[a]) < std::abs(array.strides[b]); });
  for (int i = 0; i < array.nd; ++i) {
    const py::ssize_t extent = array.dimensions[order[i]], stride = std::abs(array.strides[order[i]]);
    if (extent == 0) return false;
    if (extent == 1) continue;
    if (stride < reach) return true;
    reach += (extent - 1) * stride;
  }
  return false;
}

// The same for a caller's buffer that the result is to be copied into.
bool write_into_like(const ValueSpec& spec, Output* output, mrt_tensor* tensor) {
  const auto* like = py::detail::array_proxy(output->copy_to.ptr());
  try {
    const py::object dtype = output->copy_to.attr("dtype");
    if (!dtype.equal(spec.descr)) {
      set_invalid("the buffer for output '%s' has dtype %S and must have %S", spec.text.c_str(), dtype.ptr(),
                  spec.descr.ptr());
      return false;
    }
    if (may_overlap(*like, dtype.attr("itemsize").cast<py::ssize_t>())) {
      set_invalid("elements of the buffer for output '%s' lie in one place: give a buffer with a place for each",
                  spec.text.c_str());
      return false;
    }
  } catch (py::error_already_set& error) {
    error.restore();
    return false;
  }
  return write_into_new(spec, like->nd, like->dimensions, output, tensor) && check_buffer(spec, *tensor);
}

// Before the run: the caller's buffer, or a new array where the shape is known; else the session's memory.
bool prepare_output(const ValueSpec& spec, PyObject* buffer, Output* output, mrt_tensor* tensor) {
  std::memset(tensor, 0, sizeof(*tensor));
  if (buffer) {
    bool copy = false;
    if (!output->view.view_writable(buffer, spec.text.c_str(), tensor, &copy)) return false;
    if (!copy) {
      if (!check_buffer(spec, *tensor)) return false;
      output->array = py::reinterpret_borrow<py::object>(buffer);
      output->given = true;
      return true;
    }
    output->copy_to = py::reinterpret_borrow<py::object>(buffer);
  }
  if (!spec.descr) {
    set_invalid("output '%s' has dtype %s, for which numpy needs the package ml_dtypes: install it", spec.text.c_str(),
                dtype_name(spec.dtype).c_str());
    return false;
  }
  if (output->copy_to) return write_into_like(spec, output, tensor);
  return !spec.fixed || write_into_new(spec, static_cast<int>(spec.shape.size()), spec.shape.data(), output, tensor);
}

// Buffers that results are copied into share no memory with others; those that a run writes into are the library's to
// check.
bool check_apart(const EntrySpec& entry, const RunArgs& args, Output* outputs) {
  try {
    const size_t n = entry.outputs.size();
    for (size_t i = 0; i < n; ++i) {
      if (!outputs[i].copy_to) continue;
      for (size_t j = 0; j < n; ++j) {
        PyObject* other = i == j ? nullptr : PyDict_GetItemWithError(args.out, entry.outputs[j].name.ptr());
        if (!other || !is_numpy(other)) continue;
        if (!py::module_::import("numpy").attr("shares_memory")(outputs[i].copy_to, py::handle(other)).cast<bool>())
          continue;
        set_invalid("the buffers for outputs '%s' and '%s' share memory: give each its own",
                    entry.outputs[std::min(i, j)].text.c_str(), entry.outputs[std::max(i, j)].text.c_str());
        return false;
      }
    }
  } catch (py::error_already_set& error) {
    error.restore();
    return false;
  }
  return true;
}

// After the run: a copy where the result lies in the session's memory, and the caller's buffers filled.
bool finish_output(const ValueSpec& spec, const mrt_tensor& tensor, Output* output) {
  if (output->given) return true;
  if (!output->array) {
    const size_t bytes = dense_bytes(spec.dtype, tensor.ndim, tensor.shape);
    output->array = py::reinterpret_steal<py::object>(new_array(spec.descr, tensor.ndim, tensor.shape, bytes));
    if (!output->array) return false;
    if (bytes) std::memcpy(py::detail::array_proxy(output->array.ptr())->data, tensor.data, bytes);
  }
  if (output->copy_to) {
    try {
      py::module_::import("numpy").attr("copyto")(output->copy_to, output->array);
    } catch (py::error_already_set& error) {
      error.restore();
      return false;
    }
    output->array = output->copy_to;
  }
  return true;
}

unsigned long g_main_thread = 0;         // the one on which Python runs signal handlers
std::atomic<bool> g_exiting{false};      // the interpreter is about to end
thread_local bool t_background = false;  // this thread is one of those that run_async starts runs on

// What asks whether a run on this thread has to end; null where nothing can.
mrt_poll_fn interruption() {
  if (PyThread_get_thread_ident() == g_main_thread)
    return [](void* released) -> int32_t { return static_cast<Released*>(released)->check_signals(); };
  if (t_background) return [](void*) -> int32_t { return g_exiting.load(std::memory_order_relaxed); };
  return nullptr;
}

// Runs on `inputs` (borrowed, in the entry's order). Returns a dict by name, or, for a call of a model with one output,
// that output.
PyObject* run(RunnerState& state, PyObject* const* inputs, const RunArgs& args, bool call) {
  const EntrySpec& entry = state.program->entries()[static_cast<size_t>(args.entry)];
  const size_t n_in = entry.inputs.size(), n_out = entry.outputs.size();
  Few<ArrayView, 4> views(n_in);
  Few<mrt_tensor, 4> in(n_in);
  for (size_t i = 0; i < n_in; ++i) {
    if (!views[i].view(inputs[i], "input", entry.inputs[i].text.c_str(), &in[i])) return nullptr;
  }
  Few<Output, 4> outputs(n_out);
  Few<mrt_tensor, 4> out(n_out);
  for (size_t i = 0; i < n_out; ++i) {
    PyObject* buffer = args.out ? PyDict_GetItemWithError(args.out, entry.outputs[i].name.ptr()) : nullptr;
    if (!buffer && args.out && PyErr_Occurred()) return nullptr;
    if (!prepare_output(entry.outputs[i], buffer, &outputs[i], &out[i])) return nullptr;
  }
  if (args.out && !check_apart(entry, args, outputs.data())) return nullptr;
  Lease lease(state);
  if (!lease.session()) return nullptr;
  mrt_run_options options{};
  options.struct_size = sizeof(options);
  options.entry = args.entry;
  options.deadline_ns = args.deadline_ns;
  options.cancel = args.cancel;
  options.state = args.state;
  options.seeded = args.seeded;
  options.seed = args.seed;
  options.exact_outputs = 1;
  Released released;
  options.poll = interruption();
  options.poll_user = &released;
  const mrt_status status = mrt_session_run(lease.session(), in.data(), n_in, out.data(), n_out, &options);
  released.end();
  if (status != MRT_OK) {
    if (PyErr_Occurred()) return nullptr;  // of a signal's handler
    if (!args.state && std::strstr(mrt_last_error(), "mrt_state_create")) {
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
  if (given == n && !kwnames) return run(*state, args, RunArgs{}, true);
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
  return check_complete(entry, inputs.data()) ? run(*state, inputs.data(), RunArgs{}, true) : nullptr;
}

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

bool read_seed(PyObject* value, RunArgs* out) {
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

bool read_option(RunnerState& state, PyObject* name, PyObject* value, RunArgs* out) {
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
    out->entry = state.program->find_entry(value);
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
  if (&given.program() != state.program.get()) {
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
  RunArgs options;
  const Py_ssize_t named = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
  for (Py_ssize_t i = 0; i < named; ++i) {
    if (!read_option(*state, PyTuple_GET_ITEM(kwnames, i), args[nargs + i], &options)) return nullptr;
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
    state->threads = threads;
    state->exclusive = exclusive;
    state->profile = profile;
    if (state->program->entries().empty()) {
      set_invalid("the model has no entry point, so there is nothing to run");
      return -1;
    }
    runner->state = state.release();
    // The first session now, so that what it cannot have is said at load, not in the first run.
    return Lease(*runner->state).session() ? 0 : -1;
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
  size_t bytes = 0;
  for (const mrt_session* session : state->idle) bytes += mrt_session_memory(session);
  return PyLong_FromSize_t(bytes);
}

PyObject* records(PyObject* self, PyObject*) {
  RunnerState* state = state_of(self);
  if (!state) return nullptr;
  try {
    if (!state->exclusive || !state->profile) {
      set_invalid("only a profiled session has records");
      return nullptr;
    }
    const mrt_step_record* steps = nullptr;
    size_t count = 0;
    check(mrt_session_profile(state->idle.at(0), &steps, &count));
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
  if (!state->exclusive || state->idle.empty()) {
    set_invalid("only a session has the seed of its last run");
    return nullptr;
  }
  const mrt_status status = mrt_session_seed(state->idle.front(), &seed);
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

}  // namespace

void define_runner(py::module_& m) {
  auto type = py::reinterpret_steal<py::object>(PyType_FromSpec(&spec));
  if (!type) throw py::error_already_set();
  m.add_object("Runner", type);
  g_main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
#if !defined(_WIN32)
  pthread_atfork(nullptr, nullptr, [] { g_main_thread = PyThread_get_thread_ident(); });
#endif
  m.def("mark_background_thread", [] { t_background = true; });
  m.def("stop_background_runs", [] { g_exiting.store(true); });
}

}  // namespace maas_rt_python
