#include <algorithm>

#include "runtime/layout/passes.h"
#include "runtime/shapes.h"

namespace mrt {

void shape_values(LayoutDraft* draft) {
  const std::vector<plan::Value>& values = draft->plan.values;
  Layout& layout = draft->layout;
  layout.value_errors.assign(values.size(), -1);
  layout.values = draft->program.fixed();
  draft->largest = draft->program.largest_constant();
  const auto is_own = [&](uint32_t v) { return layout.values[v].ndim < 0 || draft->is_dynamic(v); };
  size_t extents = 0;
  for (const uint32_t v : draft->info.placed) extents += is_own(v) ? 2 * values[v].dims.size() : 0;
  layout.extents.assign(extents + 1, 0);
  int64_t* next = layout.extents.data();
  for (const uint32_t v : draft->info.placed) {
    Tensor& t = layout.values[v];
    if (is_own(v)) {
      int64_t* shape = next;
      next += 2 * values[v].dims.size();
      t.shape = shape;
      t.ndim = static_cast<int32_t>(values[v].dims.size());
      t.bytes = 0;
      if (draft->is_dynamic(v)) continue;
      Status status = value_shape(draft->program, layout.bindings, v, shape, &t.bytes);
      if (!status.ok()) {
        layout.value_errors[v] = draft->add_error(std::move(status));
        t.bytes = 0;
      }
    }
    draft->largest = std::max(draft->largest, t.bytes);
  }
}

}  // namespace mrt
