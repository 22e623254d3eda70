#include "runtime/code_provider.h"

#include <cstring>

#include "base/cpu.h"

namespace mrt {
namespace {

constexpr size_t kModelBytes = 32;

// Functions that are in the program already: nothing is loaded, and nothing goes away.
class LinkedTable final : public CodeProvider {
 public:
  explicit LinkedTable(const mrt_code_table& table) : table_(table) {
    for (int i = 0; i < kCodeHostCount; ++i)
      if (table.host[i]) __atomic_store_n(table.host[i], kCodeHost[i], __ATOMIC_RELAXED);  // by any load, to the same
  }

  CodeFunction find(const std::string& symbol) const override {
    size_t first = 0, last = table_.count;
    while (first < last) {
      const size_t middle = first + (last - first) / 2;
      const int order = symbol.compare(table_.functions[middle].name);
      if (order == 0) return reinterpret_cast<CodeFunction>(table_.functions[middle].function);
      if (order < 0)
        last = middle;
      else
        first = middle + 1;
    }
    return nullptr;
  }

 private:
  const mrt_code_table& table_;
};

Status check_tables(const mrt_load_options& options) {
  for (size_t i = 0; i < options.code_table_count; ++i) {
    if (!options.code_tables || !options.code_tables[i])
      return fail(MRT_ERROR_INVALID_ARGUMENT, "load option code_tables: table %zu of %zu is NULL", i,
                  options.code_table_count);
    if (options.code_tables[i]->version != MRT_CODE_TABLE_VERSION)
      return fail(MRT_ERROR_VERSION,
                  "load option code_tables: table %zu has version %u, this library reads %d; compile the model again",
                  i, options.code_tables[i]->version, MRT_CODE_TABLE_VERSION);
  }
  return Status();
}

// What the file's object sections ask for, and which of it the host has.
struct Linked {
  const mrt_code_table* table = nullptr;  // the best for this CPU
  std::string targets;                    // of the sections
  bool is_other = false;                  // a table for one of them is of another model
};

Status find_table(const Container& container, const mrt_load_options& options, Linked* out) {
  int best = 0;
  for (const Section& s : container.sections()) {
    if (s.kind != SectionKind::object) continue;
    out->targets += (out->targets.empty() ? "" : ", ") + std::string(s.target);
    uint8_t model[kModelBytes];
    if (plain_size(s) != kModelBytes)
      return fail(MRT_ERROR_FORMAT, "the object section for %s of '%s' does not hold %zu bytes", s.target,
                  container.name().c_str(), kModelBytes);
    MRT_TRY(container.read_small(s, options, model));
    const int rank = cpu_target_rank(s.target);
    for (size_t i = 0; i < options.code_table_count; ++i) {
      const mrt_code_table* table = options.code_tables[i];
      if (std::strcmp(table->target, s.target) != 0) continue;
      const bool same = std::memcmp(table->model, model, kModelBytes) == 0;
      out->is_other = out->is_other || !same;
      if (!same || rank <= best) continue;
      best = rank;
      out->table = table;
    }
  }
  return Status();
}

Status no_code(const Container& container, const Linked& linked) {
  const char* file = container.name().c_str();
  if (linked.targets.empty())
    return fail(MRT_ERROR_FORMAT, "the plan of '%s' calls generated functions, but the file has no code section", file);
  if (linked.is_other)
    return fail(MRT_ERROR_HASH,
                "the functions that were linked (load option code_tables) are of another model than '%s'; link the "
                "object file that was written with it",
                file);
  return fail(MRT_ERROR_TARGET,
              "the functions of '%s', for %s, are to be linked into a program, and none that this CPU (%s) runs were "
              "given; link the object file that was written with it and give its table in the load option code_tables, "
              "or compile it without --code object",
              file, linked.targets.c_str(), cpu_level());
}

}  // namespace

Status open_code(const Container& container, const mrt_load_options& options, std::unique_ptr<CodeProvider>* out) {
  MRT_TRY(check_tables(options));
  Linked linked;
  MRT_TRY(find_table(container, options, &linked));
  if (linked.table) {
    out->reset(new LinkedTable(*linked.table));
    return Status();
  }
  const Section* section = nullptr;
  MRT_TRY(container.choose_code(&section));
  return section ? open_library(container, *section, options, out) : no_code(container, linked);
}

}  // namespace mrt
