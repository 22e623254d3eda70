// Where the generated functions of a program come from. Everything else asks a provider for them by name.
#pragma once

#include <memory>
#include <string>

#include "artifact/container.h"
#include "base/status.h"
#include "runtime/code.h"

namespace mrt {

class CodeProvider {
 public:
  virtual ~CodeProvider() = default;
  // Null if there is none of that name. Valid while the provider lives.
  virtual CodeFunction find(const std::string& symbol) const = 0;

 protected:
  CodeProvider() = default;
  CodeProvider(const CodeProvider&) = delete;
  CodeProvider& operator=(const CodeProvider&) = delete;
};

// The provider of what fits this CPU best: a table of functions that the host was linked with (`options.code_tables`),
// or the file's code section as a loaded library. An error says why neither is to be had.
Status open_code(const Container& container, const mrt_load_options& options, std::unique_ptr<CodeProvider>* out);

// A code section as a library (dlopen). It is copied into sealed anonymous memory and the copy's hash is checked; of an
// encrypted file the section is decrypted on the way, and the copy is locked.
Status open_library(const Container& container, const Section& section, const mrt_load_options& options,
                    std::unique_ptr<CodeProvider>* out);

}  // namespace mrt
