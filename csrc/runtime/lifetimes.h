// How long each value of an entry is needed: a property of the plan alone, worked out once at load.
#pragma once

#include <cstdint>
#include <vector>

#include "artifact/plan.h"
#include "runtime/commit.h"

namespace mrt {

// Positions in the order of execution, both inclusive.
struct LiveRange {
  uint32_t first = 0, last = 0;
};

// After this step of a block nothing reads the root any more, until a step writes it anew.
struct LastUse {
  uint32_t block, step, root;
};

struct Lifetimes {
  std::vector<uint32_t> uses;     // by value: how often steps, entries and blocks name it; of a root its views as well
  std::vector<LiveRange> ranges;  // by root
  std::vector<uint32_t> positions;  // of the steps of the entry's block
  std::vector<LastUse> last_uses;   // of all roots but those that live to the end of the run
};

// `roots`: by value, as Program::root.
Lifetimes find_lifetimes(const plan::Plan& plan, const plan::Entry& entry, const std::vector<uint32_t>& roots,
                         const CommitPlan& commit);

}  // namespace mrt
