#include "runtime/layout.h"

#include <algorithm>

#include "base/arena.h"
#include "runtime/memory_plan.h"
#include "runtime/micro_batch.h"
#include "runtime/validate.h"

namespace mrt {

using plan::ArgKind;
using plan::StepKind;
using plan::Storage;

bool tensor_bytes(DType dtype, const int64_t* shape, size_t ndim, size_t* out) {
  int64_t bytes = static_cast<int64_t>(dtype.bytes());
  bool zero = false;
  for (size_t d = 0; d < ndim; ++d) {
    if (shape[d] < 0) return false;
    zero = zero || shape[d] == 0;
    // The product without zeros is bounded too: kernels multiply some extents only.
    if (shape[d] > 0 && (!checked_mul(bytes, shape[d], &bytes) || bytes > kMaxTensorBytes)) return false;
  }
  *out = zero ? 0 : static_cast<size_t>(bytes);
  return true;
}

void row_major(const int64_t* shape, size_t ndim, int64_t* strides) {
  int64_t stride = 1;
  for (size_t d = ndim; d-- > 0;) {
    strides[d] = stride;
    stride *= shape[d];  // 0 behind an empty extent, as generated functions expect
  }
}

Status value_shape(const Program& program, const Bindings& bindings, uint32_t value, int64_t* shape, size_t* bytes) {
  const plan::Value& v = program.plan().values[value];
  for (size_t d = 0; d < v.dims.size(); ++d) {
    const ExprValue& e = bindings.exprs[v.dims[d]];
    const char* problem = e.known == Known::no         ? "has no value yet"
                          : e.known == Known::overflow ? "overflows 64 bits"
                          : e.known == Known::division ? "divides by zero"
                          : e.value < 0                ? "is negative"
                                                       : nullptr;
    if (problem)
      return fail(MRT_ERROR_SHAPE, "dimension %zu of '%s', %s, %s with these inputs", d, v.name.c_str(),
                  program.exprs().text(v.dims[d]).c_str(), problem);
    shape[d] = e.value;
  }
  if (!tensor_bytes({v.dtype_code, v.dtype_bits}, shape, v.dims.size(), bytes))
    return fail(MRT_ERROR_SHAPE, "'%s' would need more than 2^46 bytes with these inputs", v.name.c_str());
  return Status();
}

Status view_offset(const Program& program, const Bindings& bindings, uint32_t value, size_t* out) {
  const plan::Plan& plan = program.plan();
  int64_t total = 0;
  for (uint32_t v = value; plan.values[v].storage == Storage::view; v = plan.values[v].base) {
    const ExprValue& e = bindings.exprs[static_cast<size_t>(plan.values[v].offset)];
    if (e.known != Known::yes || e.value < 0 || !checked_add(total, e.value, &total) || total > kMaxTensorBytes)
      return fail(MRT_ERROR_SHAPE, "the place of view '%s' is not known or out of range with these inputs",
                  plan.values[value].name.c_str());
  }
  *out = static_cast<size_t>(total);
  return Status();
}

namespace {

class Builder {
 public:
  Builder(const Program& program, uint32_t entry, int32_t threads, Layout* layout)
      : program_(program),
        plan_(program.plan()),
        info_(program.entries()[entry]),
        entry_(*info_.entry),
        threads_(threads),
        l_(*layout) {}

  Status build() {
    const size_t n = plan_.values.size();
    uses_.assign(n, 0);
    life_.assign(n, Lifetime());
    bytes_.assign(n, 0);
    l_.value_errors.assign(n, -1);
    external_of_.assign(n, -1);
    for (const uint32_t v : entry_.inputs) touch(v);
    visit_block(entry_.block);
    ++position_;
    for (const uint32_t v : entry_.outputs) touch(v);
    keep_next_states();
    shape_values();
    find_cuts();
    place_external();
    place_arena();
    point_values();
    for (const std::vector<uint32_t>* list : {&entry_.inputs, &entry_.outputs})
      for (const uint32_t v : *list)
        if (l_.value_errors[v] >= 0) return l_.errors[static_cast<size_t>(l_.value_errors[v])];
    l_.blocks.resize(plan_.blocks.size());
    count_arguments(entry_.block);
    l_.tensors.resize(tensor_count_);
    l_.ffi.resize(ffi_count_);
    l_.dl.resize(dl_count_);
    MRT_TRY(build_block(entry_.block, true));
    return Status();
  }

 private:
  const plan::Value& value(uint32_t v) const { return plan_.values[v]; }
  bool is_dynamic(uint32_t v) const { return info_.dynamic_values[v] != 0; }
  static DType dtype(const plan::Value& v) { return {v.dtype_code, v.dtype_bits}; }

  // ---- lifetimes ----

  // The value is read or written now; its root must live.
  void touch(uint32_t v) {
    const uint32_t r = program_.root(v);
    ++uses_[v];
    if (r != v) ++uses_[r];
    Lifetime& life = life_[r];
    if (life.last == 0) life.first = position_;
    life.last = position_;
    if (loop_depth_ > 0) touched_.push_back(r);
  }

  void visit_block(uint32_t b) {
    const plan::Block& block = plan_.blocks[b];
    for (const plan::Step& step : block.steps) {
      ++position_;
      if (b == entry_.block) step_position_.push_back(position_);
      for (const plan::Arg& a : step.args)
        if (a.kind == ArgKind::value) touch(a.index);
      for (const uint32_t v : step.outs) touch(v);
      if (step.kind == StepKind::loop) {
        visit_loop(step);
      } else {
        for (const uint32_t inner : step.blocks) {
          visit_block(inner);
          // The results are copied when the block ends, while what they are copied to lives already.
          ++position_;
          for (const uint32_t v : plan_.blocks[inner].results) touch(v);
          for (const uint32_t v : step.outs) touch(v);
        }
      }
    }
  }

  // What the body uses from outside, its parameters and the outputs live through all iterations.
  void visit_loop(const plan::Step& step) {
    const uint32_t begin = position_;
    const plan::Block& body = plan_.blocks[step.blocks[0]];
    const size_t mark = touched_.size();
    ++loop_depth_;
    for (const uint32_t v : body.params) touch(v);
    visit_block(step.blocks[0]);
    ++position_;
    for (const uint32_t v : body.results) touch(v);
    for (const uint32_t v : step.outs) touch(v);
    for (size_t i = mark; i < touched_.size(); ++i) {
      Lifetime& life = life_[touched_[i]];
      if (life.first <= begin) life.last = position_;
    }
    --loop_depth_;
    if (loop_depth_ == 0) touched_.clear();
  }

  // What becomes of the states is there to the end of the run.
  void keep_next_states() {
    const std::vector<plan::Step>& steps = plan_.blocks[entry_.block].steps;
    for (size_t i = 0; i < steps.size(); ++i)
      if (info_.commit.deferred[i]) touch(steps[i].args[0].index);
    for (uint32_t s = 0; s < plan_.states.size(); ++s) {
      if (!info_.commit.staged[s]) continue;
      l_.staged.push_back(s);
      const uint32_t v = plan_.states[s].value;
      touch(v);
      life_[v].first = 1;
    }
  }
  bool is_staged(uint32_t v) const { return value(v).storage == Storage::state && info_.commit.staged[value(v).base]; }

  // ---- shapes ----

  void shape_values() {
    const size_t n = plan_.values.size();
    l_.values.assign(n, Tensor());
    size_t total = 0;
    for (size_t v = 0; v < n; ++v) total += uses_[v] ? 2 * value(static_cast<uint32_t>(v)).dims.size() : 0;
    l_.extents.assign(total + 1, 0);
    int64_t* next = l_.extents.data();
    for (uint32_t v = 0; v < n; ++v) {
      if (!uses_[v]) continue;
      const plan::Value& x = value(v);
      Tensor& t = l_.values[v];
      t.shape = next;
      t.ndim = static_cast<int32_t>(x.dims.size());
      t.dtype = dtype(x);
      int64_t* shape = next;
      next += 2 * x.dims.size();
      if (is_dynamic(v)) continue;
      Status status = value_shape(program_, l_.bindings, v, shape, &bytes_[v]);
      if (!status.ok()) {
        l_.value_errors[v] = static_cast<int32_t>(l_.errors.size());
        l_.errors.push_back(std::move(status));
        bytes_[v] = 0;
        continue;
      }
      row_major(shape, x.dims.size(), shape + x.dims.size());
      if (x.storage == Storage::constant) bytes_[v] = static_cast<size_t>(x.bytes);
      t.bytes = bytes_[v];
    }
  }

  // ---- steps that run a few images at a time ----

  void find_cuts() {
    cuts_ = find_micro_batches({&program_, &info_, threads_, &l_.values, &l_.value_errors, &uses_});
    cut_of_.assign(plan_.values.size(), nullptr);
    size_t tensors = 0;
    for (const MicroBatch& cut : cuts_) {
      for (const uint32_t r : cut.inner) cut_of_[r] = &cut;
      for (size_t i = cut.first; i <= cut.last; ++i) {
        const plan::Step& step = plan_.blocks[entry_.block].steps[i];
        tensors += (step.args.size() + step.outs.size()) * static_cast<size_t>(cut.lanes);
        for (const plan::Arg& a : step.args)
          if (a.kind == ArgKind::value) outlive(a.index, cut);
        for (const uint32_t v : step.outs) outlive(v, cut);
      }
    }
    l_.cut_extents.reserve(tensors);
    tensor_count_ += tensors;
    for (uint32_t v = 0; v < plan_.values.size(); ++v)
      if (const MicroBatch* cut = cut_of_[program_.root(v)]) bytes_[v] = cut_bytes(bytes_[v], *cut);
  }

  // What does not live within one time alone lives through all of them.
  void outlive(uint32_t v, const MicroBatch& cut) {
    const uint32_t r = program_.root(v);
    if (cut_of_[r]) return;
    life_[r].first = std::min(life_[r].first, step_position_[cut.first]);
    life_[r].last = std::max(life_[r].last, step_position_[cut.last]);
  }

  static size_t cut_bytes(size_t bytes, const MicroBatch& cut) {
    return bytes / static_cast<size_t>(cut.batch) * static_cast<size_t>(cut.group);
  }
  Status build_repeat(const MicroBatch& cut, uint32_t b) {
    l_.blocks[b].repeats.push_back({cut.first, cut.last, static_cast<int32_t>(cut.batch / cut.group), 0, {}});
    RepeatRun& repeat = l_.blocks[b].repeats.back();
    repeat.lanes.resize(static_cast<size_t>(cut.lanes));
    for (lane_ = 0; lane_ < repeat.lanes.size(); ++lane_) {
      RepeatRun::Lane& lane = repeat.lanes[lane_];
      lane.steps.resize(cut.last - cut.first + 1);
      for (size_t i = cut.first; i <= cut.last; ++i) {
        StepRun* s = &lane.steps[i - cut.first];
        begin_step(b, i, s);
        MRT_TRY(in_step(check_values(*s->step), *s));
        build_kernel(s);
        cut_step(cut, &lane, s);
        MRT_TRY(in_step(measure(s, cut.lanes == 1 ? threads_ : 1), *s));
        repeat.scratch = std::max(repeat.scratch, align_up(s->scratch, kAlignment));
      }
    }
    lane_ = 0;
    l_.scratch_bytes = std::max(l_.scratch_bytes, repeat.scratch * repeat.lanes.size());
    return Status();
  }

  // The step's tensors become those of the first few images, and what has the others is noted.
  void cut_step(const MicroBatch& cut, RepeatRun::Lane* lane, StepRun* s) {
    const uint32_t batched = batched_arguments(s->info, s->in, s->n_in, s->out, s->n_out);
    for (int32_t k = 0; k < s->n_in; ++k)
      if ((batched >> k & 1) != 0 && !s->in[k].absent())
        cut_tensor(cut, s->step->args[static_cast<size_t>(k)].index, lane, &s->in[k]);
    for (int32_t k = 0; k < s->n_out; ++k) cut_tensor(cut, s->step->outs[static_cast<size_t>(k)], lane, &s->out[k]);
  }

  void cut_tensor(const MicroBatch& cut, uint32_t v, RepeatRun::Lane* lane, Tensor* t) {
    l_.cut_extents.emplace_back();
    int64_t* shape = l_.cut_extents.back().data();
    std::copy_n(t->shape, t->ndim, shape);
    shape[0] = cut.group;
    t->shape = shape;
    t->bytes = cut_bytes(t->bytes, cut);
    if (!cut_of_[program_.root(v)]) lane->moves.push_back({&t->data, &l_.values[v], t->bytes});
  }

  // ---- places ----

  // Inputs, then outputs that can be written in place, then the states.
  void place_external() {
    for (const uint32_t v : entry_.inputs) {
      l_.input_offsets.push_back(l_.input_total);
      l_.input_bytes.push_back(bytes_[v]);
      l_.input_total += align_up(bytes_[v], kAlignment);
      external_of_[v] = static_cast<int32_t>(l_.external.size());
      l_.external.emplace_back();
    }
    for (const uint32_t v : entry_.outputs) {
      OutputPlace place;
      place.value = v;
      place.dynamic = is_dynamic(v);
      place.bytes = bytes_[v];
      const uint32_t r = program_.root(v);
      size_t offset = 0;
      const bool whole = !place.dynamic && !is_dynamic(r) && value(r).storage == Storage::arena &&
                         external_of_[r] < 0 && l_.value_errors[r] < 0 && bytes_[r] == bytes_[v] &&
                         view_offset(program_, l_.bindings, v, &offset).ok() && offset == 0;
      if (whole) {
        place.external = external_of_[r] = static_cast<int32_t>(l_.external.size());
        l_.external.emplace_back();
      }
      if (!place.dynamic) {
        place.session_offset = l_.output_total;
        l_.output_total += align_up(std::max<size_t>(bytes_[v], 1), kAlignment);
      }
      l_.outputs.push_back(place);
    }
    l_.state_slot = static_cast<uint32_t>(l_.external.size());
    for (const plan::State& s : plan_.states) {
      if (!is_staged(s.value)) external_of_[s.value] = static_cast<int32_t>(l_.external.size());
      l_.external.emplace_back();
    }
    const int64_t seed = program_.seed();
    if (seed >= 0 && uses_[static_cast<size_t>(seed)] != 0) {
      l_.seed_slot = external_of_[static_cast<size_t>(seed)] = static_cast<int32_t>(l_.external.size());
      l_.external.emplace_back();
    }
    l_.external_base.assign(l_.external.size(), nullptr);
  }

  void place_arena() {
    std::vector<uint32_t> which;
    for (uint32_t v = 0; v < plan_.values.size(); ++v)
      if (!cut_of_[v] && is_in_arena(v)) which.push_back(v);
    std::vector<Lifetime> lives = lives_of(which);
    const size_t values = lives.size();
    // Of a stretch that runs a few images at a time one piece of the arena, in which each lane has its own layout.
    arena_offset_.assign(plan_.values.size(), 0);
    for (const MicroBatch& cut : cuts_) {
      std::vector<Lifetime> inner = lives_of(cut.inner);
      const size_t bytes = plan_memory(&inner);
      for (size_t i = 0; i < inner.size(); ++i) arena_offset_[cut.inner[i]] = inner[i].offset;
      lane_bytes_.push_back(bytes);
      Lifetime all;
      all.bytes = bytes * static_cast<size_t>(cut.lanes);
      all.first = step_position_[cut.first];
      all.last = step_position_[cut.last];
      lives.push_back(all);
    }
    l_.arena_bytes = plan_memory(&lives);
    for (size_t i = 0; i < values; ++i) arena_offset_[which[i]] = lives[i].offset;
    for (size_t i = 0; i < cuts_.size(); ++i)
      for (const uint32_t v : cuts_[i].inner) arena_offset_[v] += lives[values + i].offset;
  }

  bool is_in_arena(uint32_t v) const {
    return uses_[v] && !is_dynamic(v) && external_of_[v] < 0 && bytes_[v] > 0 &&
           (value(v).storage == Storage::arena || is_staged(v));
  }

  std::vector<Lifetime> lives_of(const std::vector<uint32_t>& which) const {
    std::vector<Lifetime> lives;
    for (const uint32_t v : which) {
      lives.push_back(life_[v]);
      lives.back().bytes = bytes_[v];
    }
    return lives;
  }

  // Fills the pointer in, or remembers where it has to be filled in.
  void point(uint32_t v, void** where) {
    const uint32_t r = program_.root(v);
    if (is_dynamic(v) || l_.value_errors[v] >= 0) return;
    size_t offset = 0;
    if (!view_offset(program_, l_.bindings, v, &offset).ok()) return;  // cannot be: point_values checked it
    if (external_of_[r] >= 0) {
      l_.external[static_cast<size_t>(external_of_[r])].push_back({where, offset});
    } else if (value(r).storage == Storage::constant) {
      *where = const_cast<uint8_t*>(program_.constant(value(r))) + offset;
    } else {
      if (const MicroBatch* cut = cut_of_[r]) offset += lane_ * lane_bytes_[static_cast<size_t>(cut - cuts_.data())];
      l_.arena_patches.push_back({where, arena_offset_[r] + offset});
    }
  }

  void point_values() {
    for (uint32_t v = 0; v < plan_.values.size(); ++v) {
      if (!uses_[v] || is_dynamic(v) || l_.value_errors[v] >= 0) continue;
      const uint32_t r = program_.root(v);
      if (v != r) {
        size_t offset = 0;
        Status status = view_offset(program_, l_.bindings, v, &offset);
        if (status.ok() && l_.value_errors[r] < 0 && (offset > bytes_[r] || bytes_[v] > bytes_[r] - offset))
          status = fail(MRT_ERROR_SHAPE, "view '%s' reaches beyond the end of '%s'", value(v).name.c_str(),
                        value(r).name.c_str());
        if (status.ok() && l_.value_errors[r] >= 0) status = l_.errors[static_cast<size_t>(l_.value_errors[r])];
        if (!status.ok()) {
          l_.value_errors[v] = static_cast<int32_t>(l_.errors.size());
          l_.errors.push_back(std::move(status));
          continue;
        }
      }
      point(v, &l_.values[v].data);
    }
  }

  // ---- steps ----

  void count_arguments(uint32_t b) {
    for (const plan::Step& step : plan_.blocks[b].steps) {
      const size_t n = step.args.size() + step.outs.size();
      if (step.kind == StepKind::kernel) tensor_count_ += n;
      if (step.kind == StepKind::code) {
        ffi_count_ += n;
        dl_count_ += n;
      }
      for (const uint32_t inner : step.blocks) count_arguments(inner);
    }
  }

  Status build_block(uint32_t b, bool always) {
    std::vector<StepRun>& steps = l_.blocks[b].steps;
    steps.resize(plan_.blocks[b].steps.size());
    auto cut = b == entry_.block ? cuts_.begin() : cuts_.end();
    for (size_t i = 0; i < steps.size(); ++i) {
      StepRun& s = steps[i];
      begin_step(b, i, &s);
      if (b == entry_.block && info_.commit.deferred[i]) {
        s.deferred = true;
        l_.deferred.push_back(&s);
      }
      if (cut != cuts_.end() && i >= cut->first) {
        if (i == cut->last) MRT_TRY(build_repeat(*cut++, b));
        continue;
      }
      Status status = in_step(build_step(&s), s);
      if (!status.ok()) {
        if (always) return status;
        s.bad = static_cast<int32_t>(l_.errors.size());
        l_.errors.push_back(std::move(status));
      }
      for (const uint32_t inner : s.step->blocks) MRT_TRY(build_block(inner, false));
    }
    return Status();
  }

  void begin_step(uint32_t b, size_t i, StepRun* s) const {
    s->step = &plan_.blocks[b].steps[i];
    s->info = program_.step_info(b, i);
    s->kind = s->step->kind;
  }

  static Status in_step(const Status& status, const StepRun& s) {
    if (status.ok()) return status;
    return fail(status.code(), "step '%s': %s", s.step->name.c_str(), status.message().c_str());
  }

  Status build_step(StepRun* s) {
    Status status = check_values(*s->step);
    for (const plan::Arg& a : s->step->args) {
      if (a.kind == ArgKind::value) s->dynamic = s->dynamic || is_dynamic(a.index);
      if (a.kind == ArgKind::expression) {
        s->dynamic = s->dynamic || info_.dynamic_exprs[a.index];
        if (status.ok() && !info_.dynamic_exprs[a.index] && l_.bindings.exprs[a.index].known != Known::yes)
          status = fail(MRT_ERROR_SHAPE, "%s overflows or divides by zero with these inputs",
                        program_.exprs().text(a.index).c_str());
      }
    }
    for (const uint32_t v : s->step->outs) s->dynamic = s->dynamic || is_dynamic(v);
    // Arrays are handed out in any case: they were counted.
    if (s->kind == StepKind::kernel) build_kernel(s);
    if (s->kind == StepKind::code) build_code(s);
    MRT_TRY(status);
    if (s->dynamic || s->kind != StepKind::kernel) return Status();
    MRT_TRY(measure(s, threads_));
    l_.scratch_bytes = std::max(l_.scratch_bytes, s->scratch);
    return Status();
  }

  // What is wrong with a value that the step names.
  Status check_values(const plan::Step& step) const {
    const auto check = [&](uint32_t v) {
      return l_.value_errors[v] < 0 ? Status() : l_.errors[static_cast<size_t>(l_.value_errors[v])];
    };
    for (const plan::Arg& a : step.args)
      if (a.kind == ArgKind::value) MRT_TRY(check(a.index));
    for (const uint32_t v : step.outs) MRT_TRY(check(v));
    return Status();
  }

  static Status measure(StepRun* s, int32_t threads) {
    const StepInfo& info = s->info;
    MRT_TRY(info.op->check(info.params, s->in, s->n_in, s->out, s->n_out));
    s->scratch = info.op->scratch(info.params, s->in, s->n_in, s->out, s->n_out, threads);
    return Status();
  }

  void build_kernel(StepRun* s) {
    s->n_in = static_cast<int32_t>(s->step->args.size());
    s->n_out = static_cast<int32_t>(s->step->outs.size());
    s->in = l_.tensors.data() + tensors_used_;
    s->out = s->in + s->n_in;
    tensors_used_ += static_cast<size_t>(s->n_in + s->n_out);
    for (int32_t i = 0; i < s->n_in; ++i) {
      const plan::Arg& a = s->step->args[static_cast<size_t>(i)];
      if (a.kind == ArgKind::value)
        set_tensor(a.index, &s->in[i]);
      else
        s->in[i].ndim = -1;
    }
    for (int32_t i = 0; i < s->n_out; ++i) set_tensor(s->step->outs[static_cast<size_t>(i)], &s->out[i]);
  }

  void set_tensor(uint32_t v, Tensor* t) {
    *t = l_.values[v];
    point(v, &t->data);
  }

  // Tensors in, tensors out, then integers.
  void build_code(StepRun* s) {
    s->ffi = l_.ffi.data() + ffi_used_;
    s->dl = l_.dl.data() + dl_used_;
    s->n_ffi = static_cast<int32_t>(s->step->args.size() + s->step->outs.size());
    ffi_used_ += static_cast<size_t>(s->n_ffi);
    dl_used_ += static_cast<size_t>(s->n_ffi);
    int32_t at = 0;
    size_t bytes = 0;
    const auto add = [&](uint32_t v) {
      set_dl(s, at++, v);
      bytes += l_.values[v].bytes;
    };
    for (const plan::Arg& a : s->step->args)
      if (a.kind == ArgKind::value) add(a.index);
    s->n_in = at;
    for (const uint32_t v : s->step->outs) add(v);
    s->n_out = at - s->n_in;
    s->pieces = code_pieces(bytes);
    for (const plan::Arg& a : s->step->args) {
      if (a.kind != ArgKind::expression) continue;
      FfiAny& any = s->ffi[at++];
      any.type = kFfiInt;
      any.padding = 0;
      any.as_int = l_.bindings.exprs[a.index].value;
    }
  }

  void set_dl(StepRun* s, int32_t at, uint32_t v) {
    DlTensor& t = s->dl[at];
    const Tensor& x = l_.values[v];
    int64_t* shape = const_cast<int64_t*>(x.shape);
    t = {nullptr, {1, 0}, x.ndim, {x.dtype.code, x.dtype.bits, 1}, shape, shape + x.ndim, 0};
    point(v, &t.data);
    FfiAny& any = s->ffi[at];
    any.type = kFfiTensor;
    any.padding = 0;
    any.as_pointer = &t;
  }

  const Program& program_;
  const plan::Plan& plan_;
  const EntryInfo& info_;
  const plan::Entry& entry_;
  const int32_t threads_;
  Layout& l_;
  uint32_t position_ = 1;
  int loop_depth_ = 0;
  std::vector<uint32_t> touched_;
  std::vector<uint32_t> uses_;           // by value; of a root those of its views as well
  std::vector<uint32_t> step_position_;  // of the entry's block
  std::vector<MicroBatch> cuts_;
  std::vector<const MicroBatch*> cut_of_;  // by root: where it holds a few images only
  std::vector<size_t> lane_bytes_;         // by cut: the arena's bytes of one lane
  size_t lane_ = 0;                        // whose part of such a value is meant
  std::vector<Lifetime> life_;
  std::vector<size_t> bytes_;
  std::vector<int32_t> external_of_;  // by root: its slot, or -1
  std::vector<size_t> arena_offset_;
  size_t tensor_count_ = 0, ffi_count_ = 0, dl_count_ = 0;
  size_t tensors_used_ = 0, ffi_used_ = 0, dl_used_ = 0;
};

}  // namespace

Status build_layout(const Program& program, uint32_t entry, const Bindings& bindings, int32_t threads,
                    std::unique_ptr<Layout>* out) {
  std::unique_ptr<Layout> layout(new Layout);
  layout->entry = entry;
  layout->bindings = bindings;
  layout->key = bindings.symbols;
  MRT_TRY(Builder(program, entry, threads, layout.get()).build());
  *out = std::move(layout);
  return Status();
}

}  // namespace mrt
