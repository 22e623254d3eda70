#include "runtime/layout/passes.h"

namespace mrt {

Layout::~Layout() = default;

Status build_layout(const Program& program, uint32_t entry, const Bindings& bindings, int32_t threads,
                    std::unique_ptr<Layout>* out) {
  std::unique_ptr<Layout> layout(new Layout);
  layout->entry = entry;
  layout->bindings = bindings;
  layout->key = bindings.symbols;
  LayoutDraft draft(program, entry, threads, layout.get());
  shape_values(&draft);
  cut_batches(&draft);
  place_external(&draft);
  place_arena(&draft);
  place_values(&draft);
  for (const std::vector<uint32_t>* list : {&draft.entry.inputs, &draft.entry.outputs})
    for (const uint32_t v : *list)
      if (draft.is_bad(v)) return draft.error_of(v);
  MRT_TRY(build_steps(&draft));
  *out = std::move(layout);
  return Status();
}

}  // namespace mrt
