#include "runtime/executor.h"

#include <algorithm>
#include <cstring>

#include "base/thread_pool.h"

namespace mrt {

using plan::ArgKind;
using plan::StepKind;

namespace {
// Records of one profiled run; a loop that runs longer keeps the first ones.
constexpr size_t kMaxRecords = 1 << 20;
}  // namespace

Executor::Executor(const Program& program, int32_t threads, bool profile)
    : program_(program),
      plan_(program.plan()),
      threads_(threads),
      profile_(profile),
      pool_(threads > 1 ? ThreadPool::process() : nullptr),
      values_(program, threads) {}

Status Executor::run(Layout* layout, uint8_t* scratch, const RunControl& control) {
  l_ = layout;
  scratch_ = scratch;
  watch_.begin(control);
  if (profile_) records_.clear();
  values_.begin(layout);
  const CodeRun code_run(threads_, &watch_);
  MRT_TRY(run_block(program_.entries()[layout->entry].entry->block));
  return watch_.status();  // what stopped within the last step
}

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
    if (s->noted) note(s->info);
  }
  return Status();
}

void Executor::note(const StepInfo& step) {
  if (step.weights != 0) program_.count_weights(step.weights);
  if (step.last_use_count != 0) values_.release(step);
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
      lane->status = Status::out_of_memory();
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
  if (s->dynamic && (s->kind == StepKind::kernel || s->kind == StepKind::code)) MRT_TRY(values_.complete(s));
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
  KernelContext context{worker.pool, worker.threads, s->dynamic ? values_.scratch() : worker.scratch, nullptr};
  if (watch_.active()) context.watch = &watch_;
  int32_t rc = MRT_OK;
  try {
    rc = s->info.op->run(s->info.params, s->in, s->n_in, s->out, s->n_out, context);
  } catch (const Stopped&) {
    return watch_.status();
  }
  if (rc == MRT_OK) return Status();
  return fail(rc == MRT_ERROR_RUN ? MRT_ERROR_RUN : MRT_ERROR_INTERNAL, "step '%s' (%s): %s", s->step->name.c_str(),
              s->info.op->contract->name, context.error ? context.error : "the kernel failed without saying why");
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
  MRT_TRY(values_.read(s.step->args[0].index, from));
  MRT_TRY(values_.define(s.step->outs[0], to));
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
  values_.end();
}

void Executor::record(const StepRun& s, int64_t start, const Worker& worker) const {
  if (s.kind == StepKind::branch || s.kind == StepKind::loop || worker.records->size() >= kMaxRecords) return;
  static const char* const kNames[] = {"kernel", "code", "copy", "bind", "if", "loop", "launch", "shape"};
  mrt_step_record r{
      s.step->name.c_str(), kNames[static_cast<size_t>(s.kind)], start, monotonic_ns() - start, 0, 0, worker.lane,
      worker.lanes};
  if (s.kind == StepKind::kernel) {
    r.kernel = s.info.kernel;
    r.flops = s.info.op->flops ? s.info.op->flops(s.info.params, s.in, s.n_in, s.out, s.n_out) : 0;
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
