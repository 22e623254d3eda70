#include "runtime/executor.h"

#include <algorithm>
#include <cstring>

#include "base/cpu.h"
#include "base/thread_pool.h"
#include "runtime/attrs.h"

namespace mrt {

using plan::ArgKind;
using plan::StepKind;
using plan::Storage;

namespace {
// Records of one profiled run; a loop that runs longer keeps the first ones.
constexpr size_t kMaxRecords = 1 << 20;
}  // namespace

Executor::Executor(const Program& program, int32_t threads, bool profile)
    : program_(program),
      plan_(program.plan()),
      threads_(threads),
      profile_(profile),
      pool_(threads > 1 ? ThreadPool::process() : nullptr) {
  for (const EntryInfo& info : program.entries())
    for (const uint8_t dynamic : info.dynamic_symbols)
      if (dynamic && dynamic_.empty()) dynamic_.resize(plan_.values.size());
}

size_t Executor::memory() const {
  size_t total = dynamic_scratch_.bytes() + staging_.bytes();
  for (const KeptArena& a : dynamic_) total += a.bytes();
  return total;
}

bool Executor::owns(const void* p) const {
  for (const KeptArena& a : dynamic_)
    if (a.owns(p)) return true;
  return false;
}

Status Executor::run(Layout* layout, uint8_t* scratch, const RunControl& control) {
  l_ = layout;
  info_ = &program_.entries()[layout->entry];
  scratch_ = scratch;
  watch_.begin(control);
  if (profile_) records_.clear();
  // What steps bound in the last run has no value until they bind it again.
  if (!dynamic_.empty()) {
    for (uint32_t s = 0; s < info_->dynamic_symbols.size(); ++s) {
      if (!info_->dynamic_symbols[s] || !l_->bindings.symbol_known[s]) continue;
      l_->bindings.symbol_known[s] = 0;
      program_.exprs().evaluate_dependents(s, &l_->bindings);
    }
  }
  const CodeRun code_run(threads_, &watch_);
  MRT_TRY(run_block(info_->entry->block));
  return watch_.status();  // what stopped within the last step
}

// ---- steps
// -----------------------------------------------------------------------------------------------------------

// Depth of blocks is bounded by validation.
Status Executor::run_block(uint32_t block) {
  BlockRun& b = l_->blocks[block];
  StepRun* const steps = b.steps.data();
  const Worker worker{pool_, threads_, scratch_, &records_, 0, 1};
  size_t next = 0;
  for (RepeatRun& repeat : b.repeats) {
    MRT_TRY(run_steps(steps + next, steps + repeat.first, worker));
    MRT_TRY(run_repeat(&repeat, worker));
    next = repeat.last + 1;
  }
  return run_steps(steps + next, steps + b.steps.size(), worker);
}

Status Executor::run_steps(StepRun* begin, StepRun* end, const Worker& worker) {
  for (StepRun* s = begin; s != end; ++s) {
    if (s->deferred) continue;
    MRT_TRY(check_stop());
    const int64_t start = profile_ ? monotonic_ns() : 0;
    MRT_TRY(run_step(s, worker));
    if (profile_) record(*s, start, worker);
    if (s->info.weights != 0) program_.count_weights(s->info.weights);
  }
  return Status();
}

Status Executor::run_repeat(RepeatRun* repeat, const Worker& all) {
  const auto once = [&](RepeatRun::Lane* lane, int32_t number, const Worker& worker) {
    if (!lane->status.ok()) return;
    const size_t at = static_cast<size_t>(number);
    for (const RepeatRun::Move& move : lane->moves) *move.data = move.whole->as<uint8_t>() + at * move.bytes;
    lane->status = run_steps(lane->steps.data(), lane->steps.data() + lane->steps.size(), worker);
  };
  const int32_t lanes = static_cast<int32_t>(repeat->lanes.size());
  // Of all that a lane may do, so that nothing is allocated on another thread or in a later run.
  const size_t records = static_cast<size_t>(repeat->count) * repeat->lanes[0].steps.size();
  for (RepeatRun::Lane& lane : repeat->lanes) {
    lane.status = Status();
    lane.records.clear();
    if (profile_ && lanes > 1) lane.records.reserve(std::min(kMaxRecords, records));
  }
  if (lanes == 1) {
    for (int32_t i = 0; i < repeat->count; ++i) once(&repeat->lanes[0], i, all);
    return repeat->lanes[0].status;
  }
  pool_->parallel(repeat->count, lanes, [&](int32_t number, int32_t i) {
    const size_t at = static_cast<size_t>(number);
    RepeatRun::Lane* lane = &repeat->lanes[at];
    try {  // a task must not throw: the sentence of an error is text, for which there may be no memory
      once(lane, i, {nullptr, 1, scratch_ + at * repeat->scratch, &lane->records, number, lanes});
    } catch (...) {
      lane->status = Status(MRT_ERROR_OUT_OF_MEMORY, {});
    }
  });
  for (RepeatRun::Lane& lane : repeat->lanes) {
    const size_t room = kMaxRecords - std::min(kMaxRecords, records_.size());
    const auto end = lane.records.begin() + static_cast<std::ptrdiff_t>(std::min(room, lane.records.size()));
    records_.insert(records_.end(), lane.records.begin(), end);
  }
  for (RepeatRun::Lane& lane : repeat->lanes) {
    if (lane.status.code() == MRT_ERROR_OUT_OF_MEMORY)
      return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for the error of a step behind '%s'",
                  lane.steps[0].step->name.c_str());
    MRT_TRY(lane.status);
  }
  return Status();
}

Status Executor::run_step(StepRun* s, const Worker& worker) {
  if (s->bad >= 0) return l_->errors[static_cast<size_t>(s->bad)];
  if (s->dynamic && (s->kind == StepKind::kernel || s->kind == StepKind::code)) MRT_TRY(complete(s));
  switch (s->kind) {
    case StepKind::kernel:
      return run_kernel(s, worker);
    case StepKind::code:
      return run_code(s);
    case StepKind::copy:
      return run_copy(*s);
    case StepKind::bind:
      return run_bind(*s);
    case StepKind::shape:
      return run_shape(*s);
    case StepKind::branch:
      return run_branch(*s);
    case StepKind::loop:
      return run_loop(*s);
    case StepKind::launch:
      break;
  }
  return fail(MRT_ERROR_INTERNAL, "step '%s' is of a kind that this runtime does not run", s->step->name.c_str());
}

Status Executor::run_kernel(StepRun* s, const Worker& worker) {
  KernelContext context{worker.pool, worker.threads, s->dynamic ? dynamic_scratch_.data() : worker.scratch, nullptr};
  if (watch_.active()) context.watch = &watch_;
  int32_t rc = MRT_OK;
  try {
    rc = s->info.op->run(s->info.params, s->in, s->n_in, s->out, s->n_out, context);
  } catch (const Stopped&) {
    return watch_.status();
  }
  if (rc == MRT_OK) return Status();
  return fail(rc == MRT_ERROR_RUN ? MRT_ERROR_RUN : MRT_ERROR_INTERNAL, "step '%s' (%s): %s", s->step->name.c_str(),
              s->info.op->contract, context.error ? context.error : "the kernel failed without saying why");
}

Status Executor::run_code(StepRun* s) {
  FfiAny result{};
  set_code_pieces(s->pieces);
  if (s->info.function(nullptr, s->ffi, s->n_ffi, &result) == 0) return Status();
  const char* reason = take_code_error();
  if (watch_.stopped()) return watch_.status();
  return fail(MRT_ERROR_RUN, "step '%s' (%s): %s", s->step->name.c_str(), s->step->target.c_str(),
              *reason ? reason : "the generated function failed without saying why");
}

Status Executor::check_copy(const StepRun& s, const Tensor** from, Tensor** to) {
  MRT_TRY(read(s.step->args[0].index, from));
  MRT_TRY(define(s.step->outs[0], to));
  if ((*from)->bytes == (*to)->bytes) return Status();
  return fail(MRT_ERROR_RUN, "step '%s' copies %zu bytes into %zu", s.step->name.c_str(), (*from)->bytes, (*to)->bytes);
}

Status Executor::run_copy(const StepRun& s) {
  const Tensor* from = nullptr;
  Tensor* to = nullptr;
  MRT_TRY(check_copy(s, &from, &to));
  if (from->bytes > 0) std::memmove(to->data, from->data, from->bytes);
  return Status();
}

Status Executor::check_commit() {
  const Tensor* from = nullptr;
  Tensor* to = nullptr;
  for (const StepRun* s : l_->deferred) MRT_TRY(check_copy(*s, &from, &to));
  return Status();
}

void Executor::commit() {
  const Worker all{pool_, threads_, scratch_, &records_, 0, 1};
  for (StepRun* s : l_->deferred) {
    const int64_t start = profile_ ? monotonic_ns() : 0;
    (void)run_copy(*s);  // check_commit() has been here
    if (profile_) record(*s, start, all);
  }
}

namespace {

// Element i of an integer or bool tensor; false if it does not fit.
bool load_integer(const Tensor& t, size_t i, int64_t* out) {
  const bool is_signed = t.dtype.code == MRT_INT;
  const uint8_t* p = t.as<uint8_t>() + i * t.dtype.bytes();
  uint64_t raw = 0;
  std::memcpy(&raw, p, t.dtype.bytes());
  switch (t.dtype.bits) {
    case 8:
      *out = is_signed ? static_cast<int8_t>(raw) : static_cast<int64_t>(raw);
      break;
    case 16:
      *out = is_signed ? static_cast<int16_t>(raw) : static_cast<int64_t>(raw);
      break;
    case 32:
      *out = is_signed ? static_cast<int32_t>(raw) : static_cast<int64_t>(raw);
      break;
    default:
      *out = static_cast<int64_t>(raw);
      return is_signed || *out >= 0;
  }
  return true;
}

}  // namespace

Status Executor::bind_symbol(const plan::Step& step, uint32_t symbol, int64_t value) {
  const plan::Symbol& s = plan_.symbols[symbol];
  if (value < 0 && s.name.rfind("assumed_", 0) == 0) {  // the compiler's name for a check, which a negative value fails
    const std::string what = s.name.substr(8, s.name.rfind("_shape") - 8);
    return fail(
        MRT_ERROR_INVALID_ARGUMENT,
        "the inputs break what this model was compiled to assume, '%s': give others, or compile it for the shapes that "
        "it will get (--input-shape, input_shapes)",
        what.c_str());
  }
  if (!symbol_allows(s, value))
    return fail(MRT_ERROR_RUN, "step '%s' gives '%s' the value %lld, expected %s", step.name.c_str(), s.name.c_str(),
                static_cast<long long>(value), symbol_range(s).c_str());
  l_->bindings.symbols[symbol] = value;
  l_->bindings.symbol_known[symbol] = 1;
  program_.exprs().evaluate_dependents(symbol, &l_->bindings);
  return Status();
}

Status Executor::run_bind(const StepRun& s) {
  const Tensor* t = nullptr;
  MRT_TRY(read(s.step->args[0].index, &t));
  const size_t n = s.step->binds.size();
  if (t->bytes != n * t->dtype.bytes())
    return fail(MRT_ERROR_RUN, "step '%s' binds %zu symbols from a tensor of %zu elements", s.step->name.c_str(), n,
                t->bytes / t->dtype.bytes());
  for (size_t i = 0; i < n; ++i) {
    int64_t value = 0;
    if (!load_integer(*t, i, &value))
      return fail(MRT_ERROR_RUN, "step '%s' binds a value that does not fit 64 bits", s.step->name.c_str());
    MRT_TRY(bind_symbol(*s.step, s.step->binds[i], value));
  }
  return Status();
}

Status Executor::run_shape(const StepRun& s) {
  Tensor* t = nullptr;
  MRT_TRY(define(s.step->outs[0], &t));
  if (t->bytes != s.step->args.size() * sizeof(int64_t))
    return fail(MRT_ERROR_RUN, "step '%s' gives %zu numbers to a tensor of %zu", s.step->name.c_str(),
                s.step->args.size(), t->bytes / sizeof(int64_t));
  int64_t* out = t->as<int64_t>();
  for (const plan::Arg& a : s.step->args) {
    const ExprValue& e = l_->bindings.exprs[a.index];
    if (e.known != Known::yes)
      return fail(MRT_ERROR_RUN, "step '%s': %s has no value, overflows or divides by zero", s.step->name.c_str(),
                  program_.exprs().text(a.index).c_str());
    *out++ = e.value;
  }
  return Status();
}

// ---- values whose shape the run decides
// --------------------------------------------------------------------------------

Status Executor::read(uint32_t value, const Tensor** out) {
  if (is_dynamic(value)) {
    if (plan_.values[value].storage == Storage::view) MRT_TRY(resolve_view(value));
  } else if (l_->value_errors[value] >= 0) {
    return l_->errors[static_cast<size_t>(l_->value_errors[value])];
  }
  *out = &l_->values[value];
  return Status();
}

Status Executor::resolve_view(uint32_t value) {
  const uint32_t r = program_.root(value);
  if (!is_dynamic(r) && l_->value_errors[r] >= 0) return l_->errors[static_cast<size_t>(l_->value_errors[r])];
  Tensor& t = l_->values[value];
  const Tensor& base = l_->values[r];
  int64_t* shape = const_cast<int64_t*>(t.shape);
  size_t bytes = 0, offset = 0;
  MRT_TRY(value_shape(program_, l_->bindings, value, shape, &bytes));
  MRT_TRY(view_offset(program_, l_->bindings, value, &offset));
  if (offset > base.bytes || bytes > base.bytes - offset)
    return fail(MRT_ERROR_RUN, "view '%s' reaches beyond the end of '%s'", plan_.values[value].name.c_str(),
                plan_.values[r].name.c_str());
  row_major(shape, static_cast<size_t>(t.ndim), shape + t.ndim);
  t.data = base.as<uint8_t>() + offset;
  t.bytes = bytes;
  return Status();
}

Status Executor::define(uint32_t value, Tensor** out) {
  *out = &l_->values[value];
  if (!is_dynamic(value))
    return l_->value_errors[value] < 0 ? Status() : l_->errors[static_cast<size_t>(l_->value_errors[value])];
  if (plan_.values[value].storage == Storage::view) return resolve_view(value);
  Tensor& t = l_->values[value];
  int64_t* shape = const_cast<int64_t*>(t.shape);
  size_t bytes = 0;
  MRT_TRY(value_shape(program_, l_->bindings, value, shape, &bytes));
  row_major(shape, static_cast<size_t>(t.ndim), shape + t.ndim);
  t.bytes = 0;  // until there is memory
  if (!dynamic_[value].reserve(bytes > 0 ? bytes : 1))
    return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for the %zu bytes of '%s'", bytes,
                plan_.values[value].name.c_str());
  t.data = dynamic_[value].data();
  t.bytes = bytes;
  return Status();
}

// Fills in what a dynamic step's arrays lack, then checks and measures as build_layout does for the others.
Status Executor::complete(StepRun* s) {
  const auto in_step = [&](const Status& status) {
    return status.ok() ? status : fail(status.code(), "step '%s': %s", s->step->name.c_str(), status.message().c_str());
  };
  const bool kernel = s->kind == StepKind::kernel;
  int32_t at = 0;
  size_t bytes = 0;
  const auto set = [&](const Tensor& t) {
    bytes += t.bytes;
    if (kernel) {
      s->in[at++] = t;  // out follows in
    } else {
      DlTensor& d = s->dl[at++];
      d.data = t.data;  // shape and strides point to the value's own, which were just rewritten
    }
  };
  for (const plan::Arg& a : s->step->args) {
    if (a.kind == ArgKind::value) {
      const Tensor* t = nullptr;
      MRT_TRY(in_step(read(a.index, &t)));
      set(*t);
    } else if (kernel) {
      ++at;  // an absent argument stays absent
    }
  }
  for (const uint32_t v : s->step->outs) {
    Tensor* t = nullptr;
    MRT_TRY(in_step(define(v, &t)));
    set(*t);
  }
  if (!kernel) {
    s->pieces = code_pieces(bytes);
    for (const plan::Arg& a : s->step->args) {
      if (a.kind != ArgKind::expression) continue;
      const ExprValue& e = l_->bindings.exprs[a.index];
      if (e.known != Known::yes)
        return fail(MRT_ERROR_RUN, "step '%s': %s has no value, overflows or divides by zero", s->step->name.c_str(),
                    program_.exprs().text(a.index).c_str());
      s->ffi[at++].as_int = e.value;
    }
    return Status();
  }
  const StepInfo& info = s->info;
  MRT_TRY(in_step(info.op->check(info.params, s->in, s->n_in, s->out, s->n_out)));
  const size_t scratch = info.op->scratch(info.params, s->in, s->n_in, s->out, s->n_out, threads_);
  if (!dynamic_scratch_.reserve(scratch))
    return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for %zu bytes of scratch of step '%s'", scratch,
                s->step->name.c_str());
  return Status();
}

Status Executor::copy_value(const plan::Step& step, uint32_t from, uint32_t to) {
  if (from == to) return Status();
  const Tensor* source = nullptr;
  Tensor* target = nullptr;
  MRT_TRY(read(from, &source));
  MRT_TRY(define(to, &target));
  if (source->ndim != target->ndim ||
      std::memcmp(source->shape, target->shape, static_cast<size_t>(source->ndim) * sizeof(int64_t)) != 0 ||
      source->bytes < target->bytes)
    return fail(MRT_ERROR_RUN, "step '%s' gives '%s' the shape of '%s', which differs", step.name.c_str(),
                plan_.values[to].name.c_str(), plan_.values[from].name.c_str());
  if (target->bytes > 0) std::memmove(target->data, source->data, target->bytes);
  return Status();
}

// ---- control flow
// ------------------------------------------------------------------------------------------------------

Status Executor::run_branch(const StepRun& s) {
  const Tensor* condition = nullptr;
  MRT_TRY(read(s.step->args[0].index, &condition));
  if (condition->bytes != 1)
    return fail(MRT_ERROR_RUN, "the condition of step '%s' is not one bool", s.step->name.c_str());
  const uint32_t block = s.step->blocks[*condition->as<uint8_t>() != 0 ? 0 : 1];
  MRT_TRY(run_block(block));
  for (size_t i = 0; i < s.step->outs.size(); ++i)
    MRT_TRY(copy_value(*s.step, plan_.blocks[block].results[i], s.step->outs[i]));
  return Status();
}

Status Executor::run_loop(const StepRun& s) {
  const plan::Step& step = *s.step;
  const plan::Block& body = plan_.blocks[step.blocks[0]];
  const auto scalar = [&](size_t i, const Tensor** t) {
    MRT_TRY(read(step.args[i].index, t));
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
  for (size_t i = 2; i < step.args.size(); ++i) MRT_TRY(copy_value(step, step.args[i].index, body.params[i - 1]));
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
  MRT_TRY(define(body.params[0], &number));
  const Tensor* condition = nullptr;
  if (number->bytes != sizeof(iteration))
    return fail(MRT_ERROR_RUN, "the iteration number of loop step '%s' is not a scalar", s.step->name.c_str());
  std::memcpy(number->data, &iteration, sizeof(iteration));
  MRT_TRY(run_block(s.step->blocks[0]));
  MRT_TRY(read(body.results[0], &condition));
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
    if (start) MRT_TRY(read(v, &t));
    MRT_TRY(bind_symbol(step, step.binds[i], t->shape[pairs[2 * i + 1]]));
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
    MRT_TRY(read(body.results[i], &t));
    total += align_up(t->bytes, kAlignment);
  }
  if (apart) {
    for (size_t i = 1; i <= n; ++i) MRT_TRY(copy_value(*s.step, body.results[i], body.params[i]));
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
    MRT_TRY(define(body.params[i], &to));
    if (to->bytes != bytes)
      return fail(MRT_ERROR_RUN, "loop step '%s' carries %zu bytes into '%s', which takes %zu", s.step->name.c_str(),
                  bytes, plan_.values[body.params[i]].name.c_str(), to->bytes);
    if (bytes > 0) std::memcpy(to->data, staging_.data() + at, bytes);
    at += align_up(bytes, kAlignment);
  }
  return Status();
}

// Appends this iteration's scan values to their outputs; a dynamic output grows by doubling.
Status Executor::append_scans(const StepRun& s, int64_t iteration) {
  const plan::Step& step = *s.step;
  const plan::Block& body = plan_.blocks[step.blocks[0]];
  for (size_t i = step.args.size() - 2; i < step.outs.size(); ++i) {
    const uint32_t out = step.outs[i];
    const Tensor* slice = nullptr;
    MRT_TRY(read(body.results[i + 1], &slice));
    Tensor& whole = l_->values[out];
    if (!is_dynamic(out)) {
      const size_t at = static_cast<size_t>(iteration) * slice->bytes;
      if (slice->bytes > 0 &&
          (at / slice->bytes != static_cast<size_t>(iteration) || at > whole.bytes || slice->bytes > whole.bytes - at))
        return fail(MRT_ERROR_RUN, "loop step '%s' runs more often than '%s' has room for", step.name.c_str(),
                    plan_.values[out].name.c_str());
      if (slice->bytes > 0) std::memcpy(whole.as<uint8_t>() + at, slice->data, slice->bytes);
      continue;
    }
    if (iteration == 0) whole.bytes = 0;  // bytes counts what was appended
    if (whole.bytes != static_cast<size_t>(iteration) * slice->bytes)
      return fail(MRT_ERROR_RUN, "loop step '%s': the slices of '%s' differ in size", step.name.c_str(),
                  plan_.values[out].name.c_str());
    const size_t need = whole.bytes + slice->bytes;
    KeptArena& buffer = dynamic_[out];
    const uint8_t* before = buffer.data();
    if (!buffer.reserve(need))
      return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for %zu bytes of '%s'", need, plan_.values[out].name.c_str());
    // The old block is still there.
    if (buffer.data() != before && whole.bytes > 0) std::memcpy(buffer.data(), before, whole.bytes);
    if (slice->bytes > 0) std::memcpy(buffer.data() + whole.bytes, slice->data, slice->bytes);
    whole.data = buffer.data();
    whole.bytes = need;
  }
  return Status();
}

Status Executor::finish_loop(const StepRun& s, int64_t iterations) {
  const plan::Step& step = *s.step;
  const plan::Block& body = plan_.blocks[step.blocks[0]];
  const size_t carried = step.args.size() - 2;
  const int64_t* pairs = nullptr;
  const size_t extents = changing_extents(step, &pairs);
  if (step.binds.size() > extents) MRT_TRY(bind_symbol(step, step.binds[extents], iterations));
  for (size_t i = 0; i < carried; ++i) MRT_TRY(copy_value(step, body.params[i + 1], step.outs[i]));
  for (size_t i = carried; i < step.outs.size(); ++i) {
    const uint32_t out = step.outs[i];
    Tensor& whole = l_->values[out];
    const size_t appended = is_dynamic(out) && iterations > 0 ? whole.bytes : 0;
    if (is_dynamic(out)) {
      Tensor* t = nullptr;
      // The buffer is large enough already, so that defining it keeps what it holds.
      MRT_TRY(define(out, &t));
      if (t->bytes != appended || t->shape[0] != iterations) t->bytes = 0;
    }
    if (whole.shape[0] != iterations || (is_dynamic(out) && whole.bytes != appended))
      return fail(MRT_ERROR_RUN, "loop step '%s' ran %lld times, which is not the first dimension of '%s'",
                  step.name.c_str(), static_cast<long long>(iterations), plan_.values[out].name.c_str());
  }
  return Status();
}

// ---- profile
// -----------------------------------------------------------------------------------------------------------

void Executor::record(const StepRun& s, int64_t start, const Worker& worker) const {
  if (s.kind == StepKind::branch || s.kind == StepKind::loop || worker.records->size() >= kMaxRecords) return;
  static const char* const kNames[] = {"kernel", "code", "copy", "bind", "if", "loop", "launch", "shape"};
  mrt_step_record r{
      s.step->name.c_str(), kNames[static_cast<size_t>(s.kind)], start, monotonic_ns() - start, 0, 0, worker.lane,
      worker.lanes};
  if (s.kind == StepKind::kernel) {
    r.kernel = s.info.op->kernel_name(s.info.params, s.in, s.n_in, s.out, s.n_out);
    r.flops = s.info.op->flops(s.info.params, s.in, s.n_in, s.out, s.n_out);
    for (int32_t i = 0; i < s.n_in; ++i) r.bytes += s.in[i].absent() ? 0 : static_cast<double>(s.in[i].bytes);
    for (int32_t i = 0; i < s.n_out; ++i) r.bytes += static_cast<double>(s.out[i].bytes);
  } else {
    if (s.kind == StepKind::code) r.kernel = s.step->target.c_str();
    for (const plan::Arg& a : s.step->args)
      if (a.kind == ArgKind::value) r.bytes += static_cast<double>(l_->values[a.index].bytes);
    for (const uint32_t v : s.step->outs) r.bytes += static_cast<double>(l_->values[v].bytes);
  }
  worker.records->push_back(r);
}

}  // namespace mrt
