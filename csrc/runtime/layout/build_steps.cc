// The steps of all blocks with their argument arrays, and those that run a few images at a time with the arrays of each
// lane.
#include <algorithm>

#include "base/arena.h"
#include "runtime/arguments.h"
#include "runtime/layout/passes.h"

namespace mrt {
namespace {

using plan::ArgKind;
using plan::StepKind;

class Builder {
 public:
  explicit Builder(LayoutDraft* draft) : draft_(*draft), plan_(draft->plan), l_(draft->layout) {}

  Status build() {
    l_.blocks.resize(plan_.blocks.size());
    for (const MicroBatch& stretch : draft_.stretches)
      for (size_t i = stretch.first; i <= stretch.last; ++i) {
        const plan::Step& step = plan_.blocks[draft_.entry.block].steps[i];
        cut_tensors_ += (step.args.size() + step.outs.size()) * static_cast<size_t>(stretch.lanes);
      }
    l_.cut_extents.reserve(cut_tensors_);
    const size_t tensors = cut_tensors_ + draft_.info.tensors, ffi = draft_.info.ffi;
    l_.tensors.resize(tensors);
    l_.ffi.resize(ffi);
    l_.dl.resize(ffi);
    l_.arena_patches.reserve(l_.arena_patches.size() + tensors + ffi);
    return build_block(draft_.entry.block, true);
  }

 private:
  // The error of a step that always runs is one of the whole; that of another waits until it runs.
  Status build_block(uint32_t b, bool always) {
    std::vector<StepRun>& steps = l_.blocks[b].steps;
    steps.resize(plan_.blocks[b].steps.size());
    const bool entry = b == draft_.entry.block;
    size_t next = entry ? 0 : draft_.stretches.size();
    for (size_t i = 0; i < steps.size(); ++i) {
      StepRun& s = steps[i];
      begin_step(b, i, &s);
      if (entry && draft_.info.commit.deferred[i]) {
        s.deferred = true;
        l_.deferred.push_back(&s);
      }
      if (next < draft_.stretches.size() && i >= draft_.stretches[next].first) {
        if (i == draft_.stretches[next].last) MRT_TRY(build_repeat(draft_.stretches[next++], b));
        continue;
      }
      Status status = build_step(&s);
      if (!status.ok()) {
        status = in_step(*s.step, status);
        if (always) return status;
        s.bad = draft_.add_error(std::move(status));
      }
      for (const uint32_t inner : s.step->blocks) MRT_TRY(build_block(inner, false));
    }
    return Status();
  }

  void begin_step(uint32_t b, size_t i, StepRun* s) const {
    s->step = &plan_.blocks[b].steps[i];
    s->info = draft_.program.step_info(b, i);
    s->kind = s->step->kind;
    s->noted = s->info.weights != 0 || s->info.last_use_count != 0;
  }

  Status build_step(StepRun* s) {
    s->dynamic = is_dynamic(*s->step);
    take_arrays(s);
    MRT_TRY(check_values(*s->step));
    if (s->dynamic) return check_fixed_expressions(*s->step);
    if (const plan::Arg* a = unknown_argument(l_.bindings, *s->step)) return out_of_range(*a);
    fill_arguments(l_, s);
    point_arguments(s, 0);
    if (s->kind != StepKind::kernel) return Status();
    MRT_TRY(measure(s, draft_.threads));
    l_.scratch_bytes = std::max(l_.scratch_bytes, s->scratch);
    return Status();
  }

  bool is_dynamic(const plan::Step& step) const {
    for (const plan::Arg& a : step.args) {
      if (a.kind == ArgKind::value && draft_.is_dynamic(a.index)) return true;
      if (a.kind == ArgKind::expression && draft_.info.dynamic_exprs[a.index]) return true;
    }
    return std::any_of(step.outs.begin(), step.outs.end(), [&](uint32_t v) { return draft_.is_dynamic(v); });
  }

  // What is wrong with a value that the step names.
  Status check_values(const plan::Step& step) const {
    if (l_.errors.empty()) return Status();
    for (const plan::Arg& a : step.args)
      if (a.kind == ArgKind::value && draft_.is_bad(a.index)) return draft_.error_of(a.index);
    for (const uint32_t v : step.outs)
      if (draft_.is_bad(v)) return draft_.error_of(v);
    return Status();
  }

  Status check_fixed_expressions(const plan::Step& step) const {
    for (const plan::Arg& a : step.args)
      if (a.kind == ArgKind::expression && !draft_.info.dynamic_exprs[a.index] &&
          l_.bindings.exprs[a.index].known != Known::yes)
        return out_of_range(a);
    return Status();
  }
  Status out_of_range(const plan::Arg& a) const {
    return fail(MRT_ERROR_SHAPE, "%s overflows or divides by zero with these inputs",
                draft_.program.exprs().text(a.index).c_str());
  }

  // Arrays are handed out in any case: they were counted.
  void take_arrays(StepRun* s) {
    const size_t n_in = s->step->args.size(), n_out = s->step->outs.size();
    if (s->kind == StepKind::kernel) {
      s->n_in = static_cast<int32_t>(n_in);
      s->n_out = static_cast<int32_t>(n_out);
      s->in = l_.tensors.data() + tensors_;
      s->out = s->in + n_in;
      tensors_ += n_in + n_out;
    }
    if (s->kind == StepKind::code) {
      s->n_ffi = static_cast<int32_t>(n_in + n_out);
      s->ffi = l_.ffi.data() + ffi_;
      s->dl = l_.dl.data() + ffi_;
      ffi_ += n_in + n_out;
    }
  }

  // Where each argument's address is to be filled in.
  void point_arguments(StepRun* s, size_t lane) {
    const bool kernel = s->kind == StepKind::kernel;
    if (!kernel && s->kind != StepKind::code) return;
    size_t at = 0;
    const auto point_next = [&](uint32_t v) {
      point(&draft_, v, lane, kernel ? &s->in[at].data : &s->dl[at].data);  // out follows in
      ++at;
    };
    for (const plan::Arg& a : s->step->args) {
      if (a.kind == ArgKind::value)
        point_next(a.index);
      else if (kernel)
        ++at;
    }
    for (const uint32_t v : s->step->outs) point_next(v);
  }

  Status build_repeat(const MicroBatch& stretch, uint32_t b) {
    l_.blocks[b].repeats.push_back(
        {stretch.first, stretch.last, static_cast<int32_t>(stretch.batch / stretch.group), 0, {}});
    RepeatRun& repeat = l_.blocks[b].repeats.back();
    repeat.lanes.resize(static_cast<size_t>(stretch.lanes));
    for (size_t number = 0; number < repeat.lanes.size(); ++number) {
      RepeatRun::Lane& lane = repeat.lanes[number];
      lane.steps.resize(stretch.last - stretch.first + 1);
      for (size_t i = stretch.first; i <= stretch.last; ++i) {
        StepRun* s = &lane.steps[i - stretch.first];
        begin_step(b, i, s);
        MRT_TRY(in_step(*s->step, check_values(*s->step)));
        take_arrays(s);
        fill_arguments(l_, s);
        point_arguments(s, number);
        cut_step(stretch, &lane, s);
        MRT_TRY(in_step(*s->step, measure(s, stretch.lanes == 1 ? draft_.threads : 1)));
        repeat.scratch = std::max(repeat.scratch, align_up(s->scratch, kAlignment));
      }
    }
    l_.scratch_bytes = std::max(l_.scratch_bytes, repeat.scratch * repeat.lanes.size());
    return Status();
  }

  // The step's tensors become those of the first few images, and what has the others is noted.
  void cut_step(const MicroBatch& stretch, RepeatRun::Lane* lane, StepRun* s) {
    const uint32_t batched = batched_arguments(s->info, s->in, s->n_in, s->out, s->n_out);
    for (int32_t k = 0; k < s->n_in; ++k)
      if ((batched >> k & 1) != 0 && !s->in[k].absent())
        cut_tensor(stretch, s->step->args[static_cast<size_t>(k)].index, lane, &s->in[k]);
    for (int32_t k = 0; k < s->n_out; ++k) cut_tensor(stretch, s->step->outs[static_cast<size_t>(k)], lane, &s->out[k]);
  }

  void cut_tensor(const MicroBatch& stretch, uint32_t v, RepeatRun::Lane* lane, Tensor* t) {
    l_.cut_extents.emplace_back();
    int64_t* shape = l_.cut_extents.back().data();
    std::copy_n(t->shape, t->ndim, shape);
    shape[0] = stretch.group;
    t->shape = shape;
    t->bytes = group_bytes(t->bytes, stretch);
    if (!draft_.stretch(v)) lane->moves.push_back({&t->data, &l_.values[v], t->bytes});
  }

  LayoutDraft& draft_;
  const plan::Plan& plan_;
  Layout& l_;
  size_t cut_tensors_ = 0;        // of steps that run a few images at a time
  size_t tensors_ = 0, ffi_ = 0;  // handed out so far
};

}  // namespace

Status build_steps(LayoutDraft* draft) { return Builder(draft).build(); }

}  // namespace mrt
