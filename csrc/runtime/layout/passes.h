// The passes of build_layout in their order, and the tables that they hand on to one another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "runtime/layout.h"
#include "runtime/layout/micro_batch.h"
#include "runtime/lifetimes.h"
#include "runtime/program.h"

namespace mrt {

// Where a value's data is, once the run has filled in what it must.
struct Place {
  // Fixed: the tensor has its address, or there is none that could be filled in.
  enum Kind : uint8_t { fixed, external, arena } kind = fixed;
  uint32_t slot = 0;  // external
  size_t offset = 0;  // from the slot's or the arena's begin
};

struct LayoutDraft {
  LayoutDraft(const Program& p, uint32_t e, int32_t n, Layout* l)
      : program(p), plan(p.plan()), info(p.entries()[e]), entry(*info.entry), threads(n), layout(*l) {}

  const Program& program;
  const plan::Plan& plan;
  const EntryInfo& info;
  const plan::Entry& entry;
  const int32_t threads;
  Layout& layout;

  size_t largest = 0;                 // bytes of a value
  std::vector<MicroBatch> stretches;  // of the entry's block
  std::vector<int32_t> stretch_of;    // by root, where there are any: the stretch that it lives within, or -1
  std::vector<LiveRange> ranges;      // by root, where stretches change them
  std::vector<size_t> lane_bytes;     // by stretch: the arena's bytes of one lane
  std::vector<Place> places;          // by value

  bool is_dynamic(uint32_t v) const { return info.dynamic_values[v] != 0; }
  bool is_bad(uint32_t v) const { return layout.value_errors[v] >= 0; }
  const Status& error_of(uint32_t v) const { return layout.errors[static_cast<size_t>(layout.value_errors[v])]; }
  int32_t add_error(Status status) {
    layout.errors.push_back(std::move(status));
    return static_cast<int32_t>(layout.errors.size()) - 1;
  }
  // Of a value that lives within a stretch.
  const MicroBatch* stretch(uint32_t v) const {
    const int32_t s = stretches.empty() ? -1 : stretch_of[program.root(v)];
    return s < 0 ? nullptr : &stretches[static_cast<size_t>(s)];
  }
  // That a value takes: those of one micro-batch where it never holds more.
  size_t bytes(uint32_t v) const {
    const MicroBatch* s = stretch(v);
    return s ? group_bytes(layout.values[v].bytes, *s) : layout.values[v].bytes;
  }
  const LiveRange& range(uint32_t root) const { return stretches.empty() ? info.lifetimes.ranges[root] : ranges[root]; }
};

// Every value's tensor but for its data. What is impossible at these shapes becomes an error of the value.
void shape_values(LayoutDraft* draft);
// Which steps run a few images at a time, and what that means for the lifetimes and sizes of values.
void cut_batches(LayoutDraft* draft);
// Gives inputs, outputs that can be written in place, states and the seed their slots.
void place_external(LayoutDraft* draft);
// Offsets of the others.
void place_arena(LayoutDraft* draft);
// From these the places of views; then whatever is known of addresses.
void place_values(LayoutDraft* draft);
// The steps with their argument arrays.
Status build_steps(LayoutDraft* draft);

// Remembers where the value's address is to be filled in, or does it now. Lane: which copy of what lives within a
// stretch.
void point(LayoutDraft* draft, uint32_t value, size_t lane, void** where);

}  // namespace mrt
