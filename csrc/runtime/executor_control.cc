// Steps that run blocks: if, and loop with what it carries from one iteration to the next and what it collects.
#include <cstring>

#include "base/arena.h"
#include "runtime/attrs.h"
#include "runtime/executor.h"

namespace mrt {

using plan::ArgKind;

Status Executor::run_branch(const StepRun& s) {
  const Tensor* condition = nullptr;
  MRT_TRY(values_.read(s.step->args[0].index, &condition));
  if (condition->bytes != 1)
    return fail(MRT_ERROR_RUN, "the condition of step '%s' is not one bool", s.step->name.c_str());
  const uint32_t block = s.step->blocks[*condition->as<uint8_t>() != 0 ? 0 : 1];
  MRT_TRY(run_block(block));
  for (size_t i = 0; i < s.step->outs.size(); ++i)
    MRT_TRY(values_.copy(*s.step, plan_.blocks[block].results[i], s.step->outs[i]));
  return Status();
}

Status Executor::run_loop(const StepRun& s) {
  const plan::Step& step = *s.step;
  const plan::Block& body = plan_.blocks[step.blocks[0]];
  const auto scalar = [&](size_t i, const Tensor** t) {
    MRT_TRY(values_.read(step.args[i].index, t));
    return (*t)->bytes == (*t)->dtype.bytes()
               ? Status()
               : fail(MRT_ERROR_RUN, "argument %zu of loop step '%s' is not a scalar", i, step.name.c_str());
  };
  bool go_on = true;
  int64_t limit = INT64_MAX;
  const Tensor* t = nullptr;
  if (step.args[0].kind == ArgKind::value) {
    MRT_TRY(scalar(0, &t));
    go_on = *t->as<uint8_t>() != 0;
  }
  if (step.args[1].kind == ArgKind::value) {
    MRT_TRY(scalar(1, &t));
    std::memcpy(&limit, t->data, sizeof(limit));
  }
  MRT_TRY(bind_extents(step, true));
  for (size_t i = 2; i < step.args.size(); ++i) MRT_TRY(values_.copy(step, step.args[i].index, body.params[i - 1]));
  int64_t iteration = 0;
  for (; go_on && iteration < limit; ++iteration) {
    MRT_TRY(check_stop());
    MRT_TRY(loop_body(s, iteration, &go_on));
  }
  return finish_loop(s, iteration);
}

Status Executor::loop_body(const StepRun& s, int64_t iteration, bool* go_on) {
  const plan::Block& body = plan_.blocks[s.step->blocks[0]];
  Tensor* number = nullptr;
  MRT_TRY(values_.define(body.params[0], &number));
  const Tensor* condition = nullptr;
  if (number->bytes != sizeof(iteration))
    return fail(MRT_ERROR_RUN, "the iteration number of loop step '%s' is not a scalar", s.step->name.c_str());
  std::memcpy(number->data, &iteration, sizeof(iteration));
  MRT_TRY(run_block(s.step->blocks[0]));
  MRT_TRY(values_.read(body.results[0], &condition));
  if (condition->bytes != 1)
    return fail(MRT_ERROR_RUN, "the condition of loop step '%s' is not one bool", s.step->name.c_str());
  *go_on = *condition->as<uint8_t>() != 0;
  MRT_TRY(append_scans(s, iteration));
  return carry(s);
}

namespace {

// How many extents the iterations of a loop may change: pairs (carried value, axis).
size_t changing_extents(const plan::Step& step, const int64_t** pairs) {
  size_t n = 0;
  return StepAttrs(step).ints("extents", pairs, &n) ? n / 2 : 0;
}

}  // namespace

// Gives the symbols of those extents the values that they have in what is carried next.
Status Executor::bind_extents(const plan::Step& step, bool start) {
  const plan::Block& body = plan_.blocks[step.blocks[0]];
  const int64_t* pairs = nullptr;
  const size_t n = changing_extents(step, &pairs);
  for (size_t i = 0; i < n; ++i) {
    const size_t k = static_cast<size_t>(pairs[2 * i]);
    const uint32_t v = start ? step.args[k + 2].index : body.results[k + 1];
    const Tensor* t = &l_->values[v];
    if (start) MRT_TRY(values_.read(v, &t));
    MRT_TRY(values_.bind(step, step.binds[i], t->shape[pairs[2 * i + 1]]));
  }
  return Status();
}

// Results become the next iteration's parameters: all are set aside before the first parameter is overwritten, unless
// no result is a parameter or looks into one, and no shape changes.
Status Executor::carry(const StepRun& s) {
  const plan::Block& body = plan_.blocks[s.step->blocks[0]];
  const size_t n = s.step->args.size() - 2;
  const int64_t* pairs = nullptr;
  bool apart = changing_extents(*s.step, &pairs) == 0;
  size_t total = 0;
  for (size_t i = 1; i <= n; ++i) {
    if (body.results[i] == body.params[i]) continue;
    const uint32_t root = program_.root(body.results[i]);
    for (size_t k = 1; k <= n; ++k) apart = apart && root != body.params[k];
    const Tensor* t = nullptr;
    MRT_TRY(values_.read(body.results[i], &t));
    total += align_up(t->bytes, kAlignment);
  }
  if (apart) {
    for (size_t i = 1; i <= n; ++i) MRT_TRY(values_.copy(*s.step, body.results[i], body.params[i]));
    return Status();
  }
  if (!staging_.reserve(total + kAlignment))
    return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for %zu bytes that loop step '%s' carries", total,
                s.step->name.c_str());
  size_t at = 0;
  for (size_t i = 1; i <= n; ++i) {
    if (body.results[i] == body.params[i]) continue;
    const Tensor& t = l_->values[body.results[i]];
    if (t.bytes > 0) std::memcpy(staging_.data() + at, t.data, t.bytes);
    at += align_up(t.bytes, kAlignment);
  }
  MRT_TRY(bind_extents(*s.step, false));
  at = 0;
  for (size_t i = 1; i <= n; ++i) {
    if (body.results[i] == body.params[i]) continue;
    const Tensor& from = l_->values[body.results[i]];
    const size_t bytes = from.bytes;
    Tensor* to = nullptr;
    MRT_TRY(values_.define(body.params[i], &to));
    if (to->bytes != bytes)
      return fail(MRT_ERROR_RUN, "loop step '%s' carries %zu bytes into '%s', which takes %zu", s.step->name.c_str(),
                  bytes, plan_.values[body.params[i]].name.c_str(), to->bytes);
    if (bytes > 0) std::memcpy(to->data, staging_.data() + at, bytes);
    at += align_up(bytes, kAlignment);
  }
  return Status();
}

// Appends this iteration's scan values to their outputs.
Status Executor::append_scans(const StepRun& s, int64_t iteration) {
  const plan::Step& step = *s.step;
  const plan::Block& body = plan_.blocks[step.blocks[0]];
  for (size_t i = step.args.size() - 2; i < step.outs.size(); ++i) {
    const uint32_t out = step.outs[i];
    const char* name = plan_.values[out].name.c_str();
    const Tensor* slice = nullptr;
    MRT_TRY(values_.read(body.results[i + 1], &slice));
    Tensor& whole = l_->values[out];
    if (values_.is_dynamic(out)) {
      if (iteration == 0) whole.bytes = 0;  // bytes counts what was appended
      if (whole.bytes != static_cast<size_t>(iteration) * slice->bytes)
        return fail(MRT_ERROR_RUN, "loop step '%s': the slices of '%s' differ in size", step.name.c_str(), name);
      MRT_TRY(values_.append(out, *slice));
      continue;
    }
    const size_t at = static_cast<size_t>(iteration) * slice->bytes;
    if (slice->bytes > 0 &&
        (at / slice->bytes != static_cast<size_t>(iteration) || at > whole.bytes || slice->bytes > whole.bytes - at))
      return fail(MRT_ERROR_RUN, "loop step '%s' runs more often than '%s' has room for", step.name.c_str(), name);
    if (slice->bytes > 0) std::memcpy(whole.as<uint8_t>() + at, slice->data, slice->bytes);
  }
  return Status();
}

Status Executor::finish_loop(const StepRun& s, int64_t iterations) {
  const plan::Step& step = *s.step;
  const plan::Block& body = plan_.blocks[step.blocks[0]];
  const size_t carried = step.args.size() - 2;
  const int64_t* pairs = nullptr;
  const size_t extents = changing_extents(step, &pairs);
  if (step.binds.size() > extents) MRT_TRY(values_.bind(step, step.binds[extents], iterations));
  for (size_t i = 0; i < carried; ++i) MRT_TRY(values_.copy(step, body.params[i + 1], step.outs[i]));
  for (size_t i = carried; i < step.outs.size(); ++i) {
    const uint32_t out = step.outs[i];
    Tensor& whole = l_->values[out];
    const size_t appended = values_.is_dynamic(out) && iterations > 0 ? whole.bytes : 0;
    if (values_.is_dynamic(out)) {
      Tensor* t = nullptr;
      // The buffer is large enough already, so that defining it keeps what it holds.
      MRT_TRY(values_.define(out, &t));
      if (t->bytes != appended || t->shape[0] != iterations) t->bytes = 0;
    }
    if (whole.shape[0] != iterations || (values_.is_dynamic(out) && whole.bytes != appended))
      return fail(MRT_ERROR_RUN, "loop step '%s' ran %lld times, which is not the first dimension of '%s'",
                  step.name.c_str(), static_cast<long long>(iterations), plan_.values[out].name.c_str());
  }
  return Status();
}

}  // namespace mrt
