#include "runtime/state.h"

#include <cstring>

namespace mrt {

Status State::create(Program* program, std::unique_ptr<State>* out) {
  std::unique_ptr<State> state(new State(program));
  const size_t n = program->states().size();
  state->buffers_.resize(n);
  for (size_t i = 0; i < n; ++i) {
    // At least one line, so that data() is never null.
    if (!state->buffers_[i].reserve(program->state_bytes(i) + kAlignment))
      return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for %zu bytes of state '%s'", program->state_bytes(i),
                  program->states()[i].name.c_str());
    std::vector<int64_t> shape;
    for (const mrt_dim& d : program->states()[i].dims) shape.push_back(d.extent);
    state->shapes_.push_back(std::move(shape));
  }
  state->reset();
  *out = std::move(state);
  return Status();
}

Status State::clone(std::unique_ptr<State>* out) const {
  MRT_TRY(create(program_, out));
  for (size_t i = 0; i < buffers_.size(); ++i) std::memcpy((*out)->data(i), data(i), bytes(i));
  return Status();
}

void State::reset() {
  const plan::Plan& plan = program_->plan();
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const int64_t init = plan.states[i].init;
    if (init < 0)
      std::memset(data(i), 0, bytes(i));
    else
      std::memcpy(data(i), program_->constant(plan.values[static_cast<size_t>(init)]), bytes(i));
  }
}

}  // namespace mrt
