// Where values are: in a slot that each run fills in, or in the arena.
#include <algorithm>

#include "base/arena.h"
#include "runtime/layout/passes.h"
#include "runtime/memory_plan.h"
#include "runtime/shapes.h"

namespace mrt {
namespace {

using plan::Storage;

// A state of which steps work on a copy.
bool is_staged(const LayoutDraft& draft, uint32_t v) {
  const plan::Value& value = draft.plan.values[v];
  return value.storage == Storage::state && draft.info.commit.staged[value.base] != 0;
}

uint32_t add_slot(Layout* layout) {
  layout->external.emplace_back();
  return static_cast<uint32_t>(layout->external.size()) - 1;
}

uint32_t place_in_slot(LayoutDraft* draft, uint32_t v) {
  const uint32_t slot = add_slot(&draft->layout);
  draft->places[v] = {Place::external, slot, 0};
  return slot;
}

// Whether steps can write all of an output's root where the caller wants the output.
bool is_written_in_place(const LayoutDraft& draft, uint32_t v) {
  const uint32_t r = draft.program.root(v);
  size_t offset = 0;
  return !draft.is_dynamic(v) && !draft.is_dynamic(r) && draft.plan.values[r].storage == Storage::arena &&
         draft.places[r].kind != Place::external && !draft.is_bad(r) && draft.bytes(r) == draft.bytes(v) &&
         view_offset(draft.program, draft.layout.bindings, v, &offset).ok() && offset == 0;
}

std::vector<Buffer> buffers_of(const LayoutDraft& draft, const std::vector<uint32_t>& values) {
  std::vector<Buffer> buffers;
  buffers.reserve(values.size() + draft.stretches.size());
  for (const uint32_t v : values) buffers.push_back({draft.bytes(v), draft.range(v).first, draft.range(v).last, 0});
  return buffers;
}

// Of a view: whether it lies within its root, and where.
Status check_view(const LayoutDraft& draft, uint32_t v, size_t* offset) {
  const uint32_t r = draft.program.root(v);
  MRT_TRY(view_offset(draft.program, draft.layout.bindings, v, offset));
  if (draft.is_bad(r)) return draft.error_of(r);
  if (*offset > draft.bytes(r) || draft.bytes(v) > draft.bytes(r) - *offset)
    return fail(MRT_ERROR_SHAPE, "view '%s' reaches beyond the end of '%s'", draft.plan.values[v].name.c_str(),
                draft.plan.values[r].name.c_str());
  return Status();
}

}  // namespace

void place_external(LayoutDraft* draft) {
  Layout& layout = draft->layout;
  draft->places.assign(draft->plan.values.size(), Place());
  for (const uint32_t v : draft->entry.inputs) {
    layout.input_offsets.push_back(layout.input_total);
    layout.input_bytes.push_back(draft->bytes(v));
    layout.input_total += align_up(draft->bytes(v), kAlignment);
    place_in_slot(draft, v);
  }
  for (const uint32_t v : draft->entry.outputs) {
    OutputPlace place;
    place.value = v;
    place.dynamic = draft->is_dynamic(v);
    place.bytes = draft->bytes(v);
    if (is_written_in_place(*draft, v))
      place.external = static_cast<int32_t>(place_in_slot(draft, draft->program.root(v)));
    if (!place.dynamic) {
      place.session_offset = layout.output_total;
      layout.output_total += align_up(std::max<size_t>(place.bytes, 1), kAlignment);
    }
    layout.outputs.push_back(place);
  }
  layout.state_slot = static_cast<uint32_t>(layout.external.size());
  for (uint32_t s = 0; s < draft->plan.states.size(); ++s) {
    if (is_staged(*draft, draft->plan.states[s].value)) {
      layout.staged.push_back(s);
      add_slot(&layout);
    } else {
      place_in_slot(draft, draft->plan.states[s].value);
    }
  }
  const int64_t seed = draft->program.seed();
  if (seed >= 0 && draft->info.lifetimes.uses[static_cast<size_t>(seed)] != 0)
    layout.seed_slot = static_cast<int32_t>(place_in_slot(draft, static_cast<uint32_t>(seed)));
  layout.external_base.assign(layout.external.size(), nullptr);
}

void place_arena(LayoutDraft* draft) {
  std::vector<uint32_t> values;
  values.reserve(draft->info.placed.size());
  for (const uint32_t v : draft->info.placed) {
    if (draft->is_dynamic(v) || draft->places[v].kind == Place::external) continue;
    if (draft->plan.values[v].storage != Storage::arena && !is_staged(*draft, v)) continue;
    draft->places[v].kind = Place::arena;
    if (draft->bytes(v) > 0 && !draft->stretch(v)) values.push_back(v);
  }
  std::vector<Buffer> buffers = buffers_of(*draft, values);
  // Of a stretch that runs a few images at a time one piece of the arena, in which each lane has its own layout.
  for (const MicroBatch& stretch : draft->stretches) {
    std::vector<Buffer> inner = buffers_of(*draft, stretch.inner);
    draft->lane_bytes.push_back(plan_memory(&inner));
    for (size_t i = 0; i < inner.size(); ++i) draft->places[stretch.inner[i]].offset = inner[i].offset;
    const std::vector<uint32_t>& positions = draft->info.lifetimes.positions;
    buffers.push_back({draft->lane_bytes.back() * static_cast<size_t>(stretch.lanes), positions[stretch.first],
                       positions[stretch.last], 0});
  }
  draft->layout.arena_bytes = plan_memory(&buffers);
  for (size_t i = 0; i < values.size(); ++i) draft->places[values[i]].offset = buffers[i].offset;
  for (size_t i = 0; i < draft->stretches.size(); ++i)
    for (const uint32_t v : draft->stretches[i].inner) draft->places[v].offset += buffers[values.size() + i].offset;
}

void place_values(LayoutDraft* draft) {
  Layout& layout = draft->layout;
  for (const uint32_t v : draft->info.placed) {
    if (draft->is_dynamic(v) || draft->is_bad(v)) continue;
    const uint32_t r = draft->program.root(v);
    if (v != r) {
      size_t offset = 0;
      Status status = check_view(*draft, v, &offset);
      if (!status.ok()) {
        layout.value_errors[v] = draft->add_error(std::move(status));
        continue;
      }
      draft->places[v] = draft->places[r];
      draft->places[v].offset += offset;
      if (draft->places[v].kind == Place::fixed) layout.values[v].data = layout.values[r].as<uint8_t>() + offset;
    }
    point(draft, v, 0, &layout.values[v].data);
  }
}

void point(LayoutDraft* draft, uint32_t value, size_t lane, void** where) {
  const Place& place = draft->places[value];
  switch (place.kind) {
    case Place::external:
      draft->layout.external[place.slot].push_back({where, place.offset});
      break;
    case Place::arena: {
      const MicroBatch* s = lane == 0 ? nullptr : draft->stretch(value);
      const size_t before = s ? lane * draft->lane_bytes[static_cast<size_t>(s - draft->stretches.data())] : 0;
      draft->layout.arena_patches.push_back({where, place.offset + before});
      break;
    }
    case Place::fixed:
      break;
  }
}

}  // namespace mrt
