// mrt_program_*: load and look.
#include <cstring>

#include "base/arena.h"
#include "base/hooks.h"
#include "capi/boundary.h"
#include "capi/handles.h"

using mrt::fail;
using mrt::Status;

namespace {

const mrt::EntryInfo* entry_of(const mrt_program* program, int32_t entry) {
  if (!program || entry < 0) return nullptr;
  const auto& entries = to_program(program)->entries();
  return static_cast<size_t>(entry) < entries.size() ? &entries[static_cast<size_t>(entry)] : nullptr;
}

// A caller in C may store any int in an enumerator's place, which C++ may not load as one.
template <typename Enum>
int32_t stored_in(const Enum& e) {
  int32_t value = 0;
  static_assert(sizeof(value) == sizeof(e), "an enumerator of the C interface is an int");
  std::memcpy(&value, &e, sizeof(value));
  return value;
}

Status read_load_options(const mrt_load_options* options, mrt_load_options* out) {
  if (!mrt::read_options(options, out)) return mrt::bad_options("mrt_load_options");
  const int32_t code = stored_in(out->code), verify = stored_in(out->verify);
  if (code < MRT_CODE_ALLOW || code > MRT_CODE_REFUSE)
    return fail(MRT_ERROR_INVALID_ARGUMENT, "load option code is %d, expected a value of mrt_code_policy", code);
  if (verify < MRT_VERIFY_DEFAULT || verify > MRT_VERIFY_FULL)
    return fail(MRT_ERROR_INVALID_ARGUMENT, "load option verify is %d, expected a value of mrt_verify", verify);
  return Status();
}

Status load(mrt::FileBytes bytes, const char* name, const mrt_load_options& options, mrt_program** out) {
  std::unique_ptr<mrt::Program> program;
  MRT_TRY(mrt::Program::load(std::move(bytes), name, options, &program));
  *out = reinterpret_cast<mrt_program*>(program.release());
  return Status();
}

Status info_of(const std::vector<mrt::ValueText>& values, int32_t index, const char* what, mrt_value_info* out) {
  if (index < 0 || static_cast<size_t>(index) >= values.size())
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s %d does not exist, there are %zu", what, index, values.size());
  const mrt::ValueText& v = values[static_cast<size_t>(index)];
  out->name = v.name.c_str();
  out->dtype = {v.dtype.code, v.dtype.bits, 1};
  out->ndim = static_cast<int32_t>(v.dims.size());
  out->dims = v.dims.data();
  return Status();
}

Status not_mapped() {
  return fail(MRT_ERROR_INVALID_ARGUMENT,
              "resident_bytes is for a mapped file, whose pages can be fetched again; load a path, without copy");
}

}  // namespace

extern "C" {

mrt_status mrt_program_load(const char* path, const mrt_load_options* options, mrt_program** out) {
  return mrt::guard([&]() -> Status {
    if (!out) return mrt::null_argument("mrt_program_load", "out");
    *out = nullptr;
    if (!path) return mrt::null_argument("mrt_program_load", "path");
    mrt_load_options read;
    MRT_TRY(read_load_options(options, &read));
    mrt::freeze_hooks();  // a copy is made with the host's allocator
    mrt::FileBytes bytes;
    if (read.copy && read.resident_bytes != 0) return not_mapped();
    MRT_TRY(read.copy ? mrt::FileBytes::copy(path, &bytes) : mrt::FileBytes::map(path, &bytes));
    return load(std::move(bytes), path, read, out);
  });
}

mrt_status mrt_program_load_memory(const void* data, size_t bytes, const mrt_load_options* options,
                                   void (*release)(void*), void* release_user, mrt_program** out) {
  return mrt::guard([&]() -> Status {
    // Where loading fails the bytes are given back too: from here on they are the library's to give back.
    mrt::FileBytes borrowed(data, bytes, release, release_user);
    if (!out) return mrt::null_argument("mrt_program_load_memory", "out");
    *out = nullptr;
    if (!data) return mrt::null_argument("mrt_program_load_memory", "data");
    if (reinterpret_cast<uintptr_t>(data) % mrt::kAlignment != 0)
      return fail(MRT_ERROR_INVALID_ARGUMENT,
                  "mrt_program_load_memory: data is not aligned to %zu bytes; copy it to "
                  "aligned memory",
                  mrt::kAlignment);
    mrt_load_options read;
    MRT_TRY(read_load_options(options, &read));
    if (read.resident_bytes != 0) return not_mapped();
    return load(std::move(borrowed), "(memory)", read, out);
  });
}

mrt_status mrt_program_retain(mrt_program* program) {
  return mrt::guard([&]() -> Status {
    if (!program) return mrt::null_argument("mrt_program_retain", "program");
    to_program(program)->retain();
    return Status();
  });
}

void mrt_program_free(mrt_program* program) {
  if (program) to_program(program)->release();
}

const char* mrt_program_manifest(const mrt_program* program) {
  return program ? to_program(program)->manifest().c_str() : "";
}

int32_t mrt_program_entry_count(const mrt_program* program) {
  return program ? static_cast<int32_t>(to_program(program)->entries().size()) : 0;
}

const char* mrt_program_entry_name(const mrt_program* program, int32_t entry) {
  const mrt::EntryInfo* e = entry_of(program, entry);
  return e ? e->entry->name.c_str() : nullptr;
}

int32_t mrt_program_entry_find(const mrt_program* program, const char* name) {
  if (!program || !name) return -1;
  const auto& entries = to_program(program)->entries();
  for (size_t i = 0; i < entries.size(); ++i)
    if (entries[i].entry->name == name) return static_cast<int32_t>(i);
  return -1;
}

int32_t mrt_program_input_count(const mrt_program* program, int32_t entry) {
  const mrt::EntryInfo* e = entry_of(program, entry);
  return e ? static_cast<int32_t>(e->input_texts.size()) : -1;
}

int32_t mrt_program_output_count(const mrt_program* program, int32_t entry) {
  const mrt::EntryInfo* e = entry_of(program, entry);
  return e ? static_cast<int32_t>(e->output_texts.size()) : -1;
}

mrt_status mrt_program_input_info(const mrt_program* program, int32_t entry, int32_t index, mrt_value_info* out) {
  return mrt::guard([&]() -> Status {
    const mrt::EntryInfo* e = entry_of(program, entry);
    if (!e || !out) return fail(MRT_ERROR_INVALID_ARGUMENT, "mrt_program_input_info: no such program, entry or out");
    return info_of(e->input_texts, index, "input", out);
  });
}

mrt_status mrt_program_output_info(const mrt_program* program, int32_t entry, int32_t index, mrt_value_info* out) {
  return mrt::guard([&]() -> Status {
    const mrt::EntryInfo* e = entry_of(program, entry);
    if (!e || !out) return fail(MRT_ERROR_INVALID_ARGUMENT, "mrt_program_output_info: no such program, entry or out");
    return info_of(e->output_texts, index, "output", out);
  });
}

int32_t mrt_program_draws(const mrt_program* program) { return program && to_program(program)->seed() >= 0 ? 1 : 0; }

int32_t mrt_program_state_count(const mrt_program* program) {
  return program ? static_cast<int32_t>(to_program(program)->states().size()) : 0;
}

mrt_status mrt_program_state_info(const mrt_program* program, int32_t index, mrt_value_info* out) {
  return mrt::guard([&]() -> Status {
    if (!program || !out) return fail(MRT_ERROR_INVALID_ARGUMENT, "mrt_program_state_info: no program or out");
    return info_of(to_program(program)->states(), index, "state", out);
  });
}

}  // extern "C"
