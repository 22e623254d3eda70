// How a run writes its states: all of them or none, however it ends.
//
// A state keeps what it held until the run has nothing left that can fail. A copy step into a state that nothing looks
// at afterwards (all that the compiler writes) simply waits until then: no byte is moved more often. A state that is
// written otherwise (by a kernel, inside a branch or loop, or read again) is staged: steps work on a copy in the arena.
#pragma once

#include <cstdint>
#include <vector>

#include "artifact/plan.h"

namespace mrt {

struct CommitPlan {
  std::vector<uint8_t> deferred;  // by step of the entry's block: a copy into a state that waits for the end
  std::vector<uint8_t> staged;    // by state
};

// `roots`: by value, as Program::root.
CommitPlan plan_commit(const plan::Plan& plan, const plan::Entry& entry, const std::vector<uint32_t>& roots);

}  // namespace mrt
