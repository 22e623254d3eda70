// Loading, and what a loaded file says about itself; states; cancel tokens.
#include "program.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "released.h"

namespace maas_rt_python {
namespace {

ValueSpec describe(const mrt_value_info& info) {
  ValueSpec spec;
  spec.text = info.name;
  spec.name = py::reinterpret_steal<py::str>(PyUnicode_InternFromString(info.name));
  spec.dtype = info.dtype;
  py::list dims, bounds;
  for (int i = 0; i < info.ndim; ++i) {
    const mrt_dim& dim = info.dims[i];
    spec.fixed = spec.fixed && dim.extent >= 0;
    spec.shape.push_back(dim.extent);
    if (dim.extent >= 0) {
      dims.append(dim.extent);
      bounds.append(py::make_tuple(dim.extent, dim.extent));
    } else {
      dims.append(dim.expr ? dim.expr : "?");
      bounds.append(py::make_tuple(dim.min, dim.max < 0 ? py::object(py::none()) : py::object(py::int_(dim.max))));
    }
  }
  if (spec.fixed) spec.bytes = dense_bytes(spec.dtype, info.ndim, spec.shape.data());
  spec.descr = numpy_dtype(spec.dtype);
  spec.info = py::make_tuple(spec.name, dtype_name(spec.dtype), py::tuple(dims), py::tuple(bounds));
  return spec;
}

// The host's signature check: a Python callable of (table bytes, signature bytes) -> bool.
int32_t check_signature(void* user, const void* table, size_t table_bytes, const void* signature,
                        size_t signature_bytes) {
  Waiting waiting;
  py::gil_scoped_acquire gil;
  waiting.over();
  try {
    py::handle function(static_cast<PyObject*>(user));
    return function(py::bytes(static_cast<const char*>(table), table_bytes),
                    py::bytes(static_cast<const char*>(signature), signature_bytes))
                   .cast<bool>()
               ? 1
               : 0;
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable("maas_rt check_signature");  // an error is not an acceptance
    return 0;
  } catch (...) {
    return 0;
  }
}

// The host's key: a Python object with unwrap(section) -> bool and open(nonce, associated, sealed, plain) -> bool. It
// keeps what went wrong, and the load's caller raises that.
template <typename F>
int32_t ask_opener(void* user, F&& ask) {
  Waiting waiting;
  py::gil_scoped_acquire gil;
  waiting.over();
  try {
    return ask(py::handle(static_cast<PyObject*>(user))).template cast<bool>() ? 1 : 0;
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable("maas_rt key");
    return 0;
  } catch (...) {
    return 0;
  }
}

int32_t unwrap_key(void* user, const void* section, size_t bytes) {
  return ask_opener(user, [&](py::handle opener) {
    return opener.attr("unwrap")(py::bytes(static_cast<const char*>(section), bytes));
  });
}

int32_t open_chunk(void* user, const void* nonce, const void* associated, size_t associated_bytes, const void* sealed,
                   size_t sealed_bytes, void* plain) {
  uint8_t nothing = 0;
  const size_t plain_bytes = sealed_bytes - 16;
  return ask_opener(user, [&](py::handle opener) {
    return opener.attr("open")(
        py::bytes(static_cast<const char*>(nonce), 12),
        py::bytes(static_cast<const char*>(associated), associated_bytes),
        py::memoryview::from_memory(sealed, static_cast<py::ssize_t>(sealed_bytes)),
        py::memoryview::from_memory(plain_bytes == 0 ? &nothing : plain, static_cast<py::ssize_t>(plain_bytes)));
  });
}

mrt_load_options load_options(const std::string& code, const std::string& verify, const py::object& checker,
                              const py::object& opener, bool lock) {
  mrt_load_options options{};
  options.struct_size = sizeof(options);
  if (code == "allow") {
    options.code = MRT_CODE_ALLOW;
  } else if (code == "signed") {
    options.code = MRT_CODE_SIGNED;
  } else if (code == "refuse") {
    options.code = MRT_CODE_REFUSE;
  } else {
    set_invalid("code is '%s' and must be 'allow', 'signed' or 'refuse'", code.c_str());
    throw py::error_already_set();
  }
  if (verify == "full") {
    options.verify = MRT_VERIFY_FULL;
  } else if (verify != "default") {
    set_invalid("verify is '%s' and must be 'default' or 'full'", verify.c_str());
    throw py::error_already_set();
  }
  if (!checker.is_none()) {
    options.check_signature = check_signature;
    options.signature_user = checker.ptr();
  }
  if (!opener.is_none()) {
    options.unwrap_key = unwrap_key;
    options.open_chunk = open_chunk;
    options.key_user = opener.ptr();
  }
  options.unlocked = !lock;
  return options;
}

// What pickle asks of an object, and what no run waits for, is answered in Python.
template <typename... Args>
py::object in_python(const char* function, const Args&... args) {
  return py::module_::import("maas_rt._program").attr(function)(args...);
}

py::tuple infos(const std::vector<ValueSpec>& values) {
  py::tuple out(values.size());
  for (size_t i = 0; i < values.size(); ++i) out[i] = values[i].info;
  return out;
}

}  // namespace

Program::Program(mrt_program* handle) : handle_(handle) {
  try {
    mrt_value_info info;
    for (int32_t e = 0; e < mrt_program_entry_count(handle); ++e) {
      EntrySpec entry;
      entry.name = mrt_program_entry_name(handle, e);
      for (int32_t i = 0; i < mrt_program_input_count(handle, e); ++i) {
        check(mrt_program_input_info(handle, e, i, &info));
        entry.inputs.push_back(describe(info));
      }
      for (int32_t i = 0; i < mrt_program_output_count(handle, e); ++i) {
        check(mrt_program_output_info(handle, e, i, &info));
        entry.outputs.push_back(describe(info));
      }
      entries_.push_back(std::move(entry));
    }
    for (int32_t i = 0; i < mrt_program_state_count(handle); ++i) {
      check(mrt_program_state_info(handle, i, &info));
      states_.push_back(describe(info));
    }
  } catch (...) {
    mrt_program_free(handle);
    throw;
  }
}

Program::~Program() {
  without_gil([this] { mrt_program_free(handle_); });
}

std::shared_ptr<Program> Program::load_file(const std::string& path, mrt_load_options options) {
  mrt_program* handle = nullptr;
  Released released;
  const mrt_status status = mrt_program_load(path.c_str(), &options, &handle);
  released.end();
  check(status);
  return std::shared_ptr<Program>(new Program(handle));
}

std::shared_ptr<Program> Program::load_bytes(py::buffer data, mrt_load_options options) {
  // A copy: aligned as the library asks, and safe from a caller who changes the bytes after they were hashed.
  Py_buffer buffer;
  if (PyObject_GetBuffer(data.ptr(), &buffer, PyBUF_C_CONTIGUOUS) != 0) throw py::error_already_set();
  const size_t bytes = static_cast<size_t>(buffer.len);
  void* copy = std::aligned_alloc(65536, (bytes + 65535) / 65536 * 65536 + (bytes == 0 ? 65536 : 0));
  if (copy) std::memcpy(copy, buffer.buf, bytes);
  PyBuffer_Release(&buffer);
  if (!copy) throw std::bad_alloc();
  return load_memory(copy, bytes, options, [](void* p) { std::free(p); }, copy);
}

std::shared_ptr<Program> Program::load_memory(const void* data, size_t bytes, const mrt_load_options& options,
                                              void (*release)(void*), void* user) {
  mrt_program* handle = nullptr;
  Released released;
  const mrt_status status = mrt_program_load_memory(data, bytes, &options, release, user, &handle);
  released.end();
  check(status);  // on failure the library has released the memory
  std::shared_ptr<Program> program(new Program(handle));
  program->data_ = data;
  program->bytes_ = bytes;
  return program;
}

namespace {

struct Mapping {
  void* data;
  size_t bytes;
};

void unmap(void* user) {
  const std::unique_ptr<Mapping> mapping(static_cast<Mapping*>(user));
  // In pieces: while one goes, no other thread of the process gets a page.
  constexpr size_t kPiece = size_t{2} << 20;
  char* const data = static_cast<char*>(mapping->data);
  for (size_t at = 0; at < mapping->bytes; at += kPiece) munmap(data + at, std::min(kPiece, mapping->bytes - at));
}

// Whether nobody can write to a file or cut it short any more.
bool is_sealed(int descriptor) {
#ifdef F_GET_SEALS
  constexpr int kNeeded = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL;
  const int seals = fcntl(descriptor, F_GET_SEALS);  // -1 where there can be none
  return seals >= 0 && (seals & kNeeded) == kNeeded;
#else
  (void)descriptor;
  return false;
#endif
}

}  // namespace

std::shared_ptr<Program> Program::load_sealed(int descriptor, mrt_load_options options) {
  struct stat status{};
  if (fstat(descriptor, &status) != 0 || status.st_size <= 0 || !is_sealed(descriptor)) {
    set_invalid("descriptor %d is no file in memory that is sealed against writing and cutting", descriptor);
    throw py::error_already_set();
  }
  const size_t bytes = static_cast<size_t>(status.st_size);
  void* data = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (data == MAP_FAILED) {
    PyErr_SetFromErrno(PyExc_OSError);
    throw py::error_already_set();
  }
  return load_memory(data, bytes, options, unmap, new Mapping{data, bytes});
}

int Program::find_entry(PyObject* name) const {
  if (PyUnicode_Check(name)) {
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (PyUnicode_CompareWithASCIIString(name, entries_[i].name.c_str()) == 0) return static_cast<int>(i);
    }
  }
  std::string names;
  for (const EntrySpec& entry : entries_) names += (names.empty() ? "" : ", ") + entry.name;
  set_invalid("the model has no entry point %R; it has: %s", name, names.c_str());
  return -1;
}

State::State(std::shared_ptr<Program> program) : program_(std::move(program)) {
  check(mrt_state_create(program_->handle(), &handle_));
}

std::unique_ptr<State> State::clone() const {
  mrt_state* copy = nullptr;
  check(mrt_state_clone(handle_, &copy));
  return std::unique_ptr<State>(new State(program_, copy));
}

void State::reset() { check(mrt_state_reset(handle_)); }

py::tuple State::names() const {
  py::tuple names(program_->states().size());
  for (size_t i = 0; i < names.size(); ++i) names[i] = program_->states()[i].name;
  return names;
}

py::array State::value(py::object self, py::object name) {
  const State& state = self.cast<const State&>();
  const auto& specs = state.program_->states();
  for (size_t i = 0; i < specs.size(); ++i) {
    if (!specs[i].name.equal(name)) continue;
    if (!specs[i].descr) {
      set_invalid("state '%s' has dtype %s, for which numpy needs the package ml_dtypes: install it",
                  specs[i].text.c_str(), dtype_name(specs[i].dtype).c_str());
      throw py::error_already_set();
    }
    mrt_tensor tensor{};
    check(mrt_state_value(state.handle_, static_cast<int32_t>(i), &tensor));
    std::vector<py::ssize_t> shape(tensor.shape, tensor.shape + tensor.ndim);
    return py::array(py::reinterpret_borrow<py::dtype>(specs[i].descr), shape, {}, tensor.data, self);
  }
  std::string names;
  for (const ValueSpec& spec : specs) names += (names.empty() ? "" : ", ") + spec.text;
  set_invalid("the model has no state %R; it has: %s", name.ptr(), names.empty() ? "none" : names.c_str());
  throw py::error_already_set();
}

void define_program(py::module_& m) {
  py::class_<Program, std::shared_ptr<Program>>(m, "Program", "A loaded file; immutable, shared, thread-safe.")
      .def_static(
          "load_file",
          [](const std::string& path, const std::string& code, const std::string& verify, py::object checker,
             py::object opener, bool lock, bool copy, size_t resident) {
            mrt_load_options options = load_options(code, verify, checker, opener, lock);
            options.copy = copy;
            options.resident_bytes = resident;
            return Program::load_file(path, options);
          },
          py::arg("path"), py::arg("code"), py::arg("verify"), py::arg("check_signature"), py::arg("opener"),
          py::arg("lock"), py::arg("copy"), py::arg("resident"))
      .def_static(
          "load_bytes",
          [](py::buffer data, const std::string& code, const std::string& verify, py::object checker, py::object opener,
             bool lock) {
            return Program::load_bytes(std::move(data), load_options(code, verify, checker, opener, lock));
          },
          py::arg("data"), py::arg("code"), py::arg("verify"), py::arg("check_signature"), py::arg("opener"),
          py::arg("lock"))
      .def_static(
          "load_sealed",
          [](int descriptor, const std::string& code, const std::string& verify, py::object checker, py::object opener,
             bool lock) { return Program::load_sealed(descriptor, load_options(code, verify, checker, opener, lock)); },
          py::arg("descriptor"), py::arg("code"), py::arg("verify"), py::arg("check_signature"), py::arg("opener"),
          py::arg("lock"))
      .def_property_readonly("manifest", [](const Program& p) { return std::string(mrt_program_manifest(p.handle())); })
      .def_property_readonly("entries",
                             [](const Program& p) {
                               py::tuple names(p.entries().size());
                               for (size_t i = 0; i < p.entries().size(); ++i) names[i] = p.entries()[i].name;
                               return names;
                             })
      .def("inputs", [](const Program& p, size_t entry) { return infos(p.entries().at(entry).inputs); })
      .def("outputs", [](const Program& p, size_t entry) { return infos(p.entries().at(entry).outputs); })
      .def_property_readonly("draws", [](const Program& p) { return mrt_program_draws(p.handle()) != 0; })
      .def("states", [](const Program& p) { return infos(p.states()); })
      .def("data", &Program::data)
      .def_readwrite("source", &Program::source)
      .def("__reduce__", [](py::object self) { return in_python("reduce_program", self); });

  py::class_<State>(m, "State", "What a model remembers between runs; index it by name for a view.")
      .def(py::init<std::shared_ptr<Program>>())
      .def("clone", &State::clone, "A copy that goes its own way.")
      .def("reset", &State::reset, "Back to the initial values.")
      .def("__getitem__", &State::value)
      .def("__setitem__",
           [](py::object self, py::object name, py::object value) { in_python("set_state_value", self, name, value); })
      .def("__len__", [](const State& s) { return s.program().states().size(); })
      .def("__iter__", [](const State& s) { return py::iter(s.names()); })
      .def("__contains__", [](const State& s, py::object name) { return s.names().contains(name); })
      .def_property_readonly("program", &State::shared_program)
      .def("__copy__", &State::clone)
      .def("__deepcopy__", [](const State& s, const py::object&) { return s.clone(); })
      .def("__reduce__", [](py::object self) { return in_python("reduce_state", self); })
      .def("keys", &State::names);

  py::class_<CancelToken>(m, "CancelToken", "Stops the runs it was given to, between two steps; any thread may set it.")
      .def(py::init<>())
      .def(
          "cancel", [](CancelToken& t) { t.set(true); }, "Stop them.")
      .def(
          "clear", [](CancelToken& t) { t.set(false); }, "Let later runs go on.")
      .def_property_readonly("cancelled", &CancelToken::cancelled);
}

}  // namespace maas_rt_python
