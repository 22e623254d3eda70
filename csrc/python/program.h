// Python objects over programs, states and cancel tokens of the C API.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "binding.h"

namespace maas_rt_python {

struct EntrySpec {
  std::string name;
  std::vector<ValueSpec> inputs;
  std::vector<ValueSpec> outputs;
};

// A loaded file. Immutable; shared by every runner and state that was made from it.
class Program {
 public:
  static std::shared_ptr<Program> load_file(const std::string& path, mrt_load_options options);
  static std::shared_ptr<Program> load_bytes(py::buffer data, mrt_load_options options);
  // Maps a file in memory that nobody can change any more: processes that load it share its pages.
  static std::shared_ptr<Program> load_sealed(int descriptor, mrt_load_options options);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  mrt_program* handle() const { return handle_; }
  const std::vector<EntrySpec>& entries() const { return entries_; }
  const std::vector<ValueSpec>& states() const { return states_; }
  // The bytes of a program that came as bytes; where it came from, for maas_rt._program.
  py::bytes data() const { return py::bytes(static_cast<const char*>(data_), bytes_); }
  py::object source = py::none();
  // Index of an entry point; -1 with a Python error set if there is none of that name.
  int find_entry(PyObject* name) const;

 private:
  explicit Program(mrt_program* handle);
  // The memory is the program's, which gives it back by release(user), also where it cannot be loaded.
  static std::shared_ptr<Program> load_memory(const void* data, size_t bytes, const mrt_load_options& options,
                                              void (*release)(void*), void* user);

  mrt_program* handle_;
  const void* data_ = nullptr;
  size_t bytes_ = 0;
  std::vector<EntrySpec> entries_;
  std::vector<ValueSpec> states_;
};

// What a model remembers between runs.
class State {
 public:
  explicit State(std::shared_ptr<Program> program);
  ~State() { mrt_state_free(handle_); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  mrt_state* handle() const { return handle_; }
  const Program& program() const { return *program_; }
  const std::shared_ptr<Program>& shared_program() const { return program_; }
  std::unique_ptr<State> clone() const;
  void reset();
  // A writable view of one value; `self` is kept alive by it.
  static py::array value(py::object self, py::object name);
  py::tuple names() const;

 private:
  State(std::shared_ptr<Program> program, mrt_state* handle) : program_(std::move(program)), handle_(handle) {}

  std::shared_ptr<Program> program_;
  mrt_state* handle_ = nullptr;
};

// Stops runs between two steps, from any thread.
class CancelToken {
 public:
  CancelToken() { check(mrt_cancel_create(&handle_)); }
  ~CancelToken() { mrt_cancel_free(handle_); }
  CancelToken(const CancelToken&) = delete;
  CancelToken& operator=(const CancelToken&) = delete;

  mrt_cancel* handle() const { return handle_; }
  bool cancelled() const { return cancelled_; }
  void set(bool on) {
    cancelled_ = on;
    on ? mrt_cancel_set(handle_) : mrt_cancel_clear(handle_);
  }

 private:
  mrt_cancel* handle_ = nullptr;
  bool cancelled_ = false;
};

}  // namespace maas_rt_python
