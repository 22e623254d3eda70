// A step's arguments in the form in which its function wants them: the same for a step whose shapes the layout knows
// and for one that waits for the run.
#pragma once

#include "base/status.h"
#include "runtime/layout.h"

namespace mrt {

// Fills the step's arrays from the values' tensors and the bindings.
void fill_arguments(const Layout& layout, StepRun* s);
// The expression among a step's arguments that has no value; null if all have.
const plan::Arg* unknown_argument(const Bindings& bindings, const plan::Step& step);
// Asks the kernel whether it takes these arguments, and how much scratch it needs.
Status measure(StepRun* s, int32_t threads);
// The status, with the step's name before its sentence.
Status in_step(const plan::Step& step, const Status& status);

}  // namespace mrt
