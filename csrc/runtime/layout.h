// Everything about one entry at one binding of its input symbols, worked out once: shapes, memory, argument arrays.
//
// A value is in one of these places: a constant (in the mapped file), the arena (at an offset), external (an input, an
// output that is written in place, a state, the seed: the run fills the pointer in), or dynamic (its shape is known
// only when a step has bound a symbol: RunValues finds memory for it then). build_layout runs the passes of
// layout/passes.h one after the other; each takes at most n log n in the number of values and steps.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "runtime/code.h"
#include "runtime/expr.h"
#include "runtime/program.h"

namespace mrt {

// A step with its arguments in the form in which its function wants them.
struct StepRun {
  const plan::Step* step = nullptr;
  StepInfo info;
  plan::StepKind kind = plan::StepKind::copy;
  bool dynamic = false;   // arguments are filled in just before the step
  bool deferred = false;  // a copy into a state: it waits for the end of the run
  bool noted = false;    // something is to be noted after it: what it read of the weights, what it was the last to read
  int32_t bad = -1;      // not -1: index of the error that running it would be
  Tensor* in = nullptr;  // kernel steps: n_in of them, and n_out behind them
  Tensor* out = nullptr;
  int32_t n_in = 0, n_out = 0;
  FfiAny* ffi = nullptr;   // code steps: n_ffi of them, as many as arguments and outputs
  DlTensor* dl = nullptr;  // one per tensor among them
  int32_t n_ffi = 0;
  int32_t pieces = 1;  // code: into which it may be cut where the run may have to end meanwhile
  size_t scratch = 0;
};

// Steps [first, last] in a row, `count` times, each time on the next few images of a batch.
struct RepeatRun {
  // *data = whole->data + (which time) * bytes
  struct Move {
    void** data;
    const Tensor* whole;
    size_t bytes;
  };
  // What a thread that does some of the times has for its own.
  struct Lane {
    std::vector<StepRun> steps;
    std::vector<Move> moves;
    std::vector<mrt_step_record> records;
    Status status;
  };
  size_t first, last;
  int32_t count;
  size_t scratch;           // of a lane
  std::vector<Lane> lanes;  // one: all threads work on each step
};

struct BlockRun {
  std::vector<StepRun> steps;
  std::vector<RepeatRun> repeats;  // ascending, without overlap
};

// A pointer to be filled in: *where = base + offset.
struct Patch {
  void** where;
  size_t offset;
};

// How an output gets to the caller.
struct OutputPlace {
  uint32_t value;
  int32_t external = -1;      // written in place through this external slot; -1: copied at the end
  size_t bytes = 0;           // of a value that is not dynamic
  size_t session_offset = 0;  // in the session's memory for outputs, used where the caller gives none
  bool dynamic = false;
};

struct Layout {
  ~Layout();

  uint32_t entry = 0;
  std::vector<int64_t> key;  // values of the symbols
  uint64_t last_used = 0;
  Bindings bindings;  // dynamic symbols change while a run goes on

  std::vector<Tensor> values;         // by value; dynamic ones are filled in during the run
  std::vector<int64_t> extents;       // behind the values' and arguments' shapes and strides
  std::vector<BlockRun> blocks;       // by block; empty for those of other entries
  std::vector<Status> errors;         // of values and steps that are impossible at these shapes
  std::vector<int32_t> value_errors;  // by value: index of what is wrong with it, or -1

  std::vector<Patch> arena_patches;
  uint8_t* arena_base = nullptr;             // what they were last filled with
  std::vector<std::vector<Patch>> external;  // by slot: inputs, outputs in place, states, the seed
  std::vector<uint8_t*> external_base;
  std::vector<size_t> input_offsets;  // of the aligned copy of an input, in the session's memory for inputs
  std::vector<size_t> input_bytes;
  std::vector<OutputPlace> outputs;
  uint32_t state_slot = 0;         // slot of the first state
  int32_t seed_slot = -1;          // of the run's seed; -1: nothing reads it
  std::vector<uint32_t> staged;    // states whose value is in the arena while the run goes on
  std::vector<StepRun*> deferred;  // steps that write the other states at its end, in order

  size_t arena_bytes = 0, scratch_bytes = 0, input_total = 0, output_total = 0;

  std::vector<Tensor> tensors;                                 // behind StepRun::in, out
  std::vector<std::array<int64_t, MRT_MAX_RANK>> cut_extents;  // behind the shapes of those of a few images
  std::vector<FfiAny> ffi;                                     // behind StepRun::ffi
  std::vector<DlTensor> dl;                                    // behind StepRun::dl

  void set_external(size_t slot, uint8_t* base) {
    if (external_base[slot] == base) return;
    external_base[slot] = base;
    for (const Patch& p : external[slot]) *p.where = base + p.offset;
  }
};

// Builds the layout for `bindings` (all input symbols known and checked). The error of a step that always runs is
// returned here; that of one inside a block is kept for when it runs.
Status build_layout(const Program& program, uint32_t entry, const Bindings& bindings, int32_t threads,
                    std::unique_ptr<Layout>* out);

}  // namespace mrt
