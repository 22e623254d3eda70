#include "runtime/session.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "runtime/shapes.h"
#include "runtime/strided.h"

namespace mrt {
namespace {

bool aligned(const void* p, DType dtype) { return (reinterpret_cast<uintptr_t>(p) & (dtype.alignment() - 1)) == 0; }

}  // namespace

Session::Session(Program* program, int32_t threads, bool profile, int32_t layout_cache)
    : program_(program),
      threads_(threads),
      profile_(profile),
      layout_limit_(layout_cache > 0 ? static_cast<size_t>(layout_cache) : 16),
      executor_(*program, threads, profile) {
  program->retain();
  size_t outputs = 0, extents = 0;
  for (const EntryInfo& e : program->entries()) {
    outputs = std::max(outputs, e.output_texts.size());
    size_t n = 0;
    for (const ValueText& t : e.input_texts) n += t.dims.size();
    extents = std::max(extents, n);
  }
  in_place_.assign(outputs, 0);
  written_.assign(outputs, Span());
  loose_.assign(outputs, 0);
  results_.assign(outputs, nullptr);
  issued_.assign(outputs, nullptr);
  last_extents_.assign(extents, -1);
  program->exprs().reset(&bindings_);
}

Session::~Session() {
  for (IssuedOutput* record : issued_) give_back_issued(record);
  program_->release();
}

Status Session::run(const RunRequest& r) {
  const EntryInfo& info = program_->entries()[r.entry];
  if (r.input_count != info.input_texts.size() || r.output_count != info.output_texts.size())
    return fail(MRT_ERROR_INVALID_ARGUMENT, "entry '%s' takes %zu inputs and %zu outputs, got %zu and %zu",
                info.entry->name.c_str(), info.input_texts.size(), info.output_texts.size(), r.input_count,
                r.output_count);
  if (program_->mapped()) MRT_TRY(check_file());
  forget_own_outputs(r);
  for (size_t i = 0; i < r.input_count; ++i) MRT_TRY(check_input(r.inputs[i], info.input_texts[i]));
  if (!same_shapes(r)) MRT_TRY(select_layout(r));
  layout_->last_used = ++clock_;
  MRT_TRY(place_inputs(r));
  MRT_TRY(place_outputs(r));
  MRT_TRY(place_states(r));
  MRT_TRY(place_seed(r));
  const Status status = run_placed(r);
  const size_t memory = arena_.bytes() + inputs_.bytes() + outputs_.bytes() + executor_.memory();
  memory_.store(memory, std::memory_order_relaxed);
  return status;
}

Status Session::run_placed(const RunRequest& r) {
  MRT_TRY(executor_.run(layout_, arena_.data() + layout_->arena_bytes, r.control));
  if (program_->mapped()) MRT_TRY(check_file());
  // All that can fail comes before the states change.
  MRT_TRY(complete_outputs(r));
  MRT_TRY(executor_.check_commit());
  commit_states(r);
  deliver(r);
  return Status();
}

// Asking the system takes a third of the shortest runs' time, so that runs in close sequence ask once for several.
Status Session::check_file() {
  constexpr int64_t kBetween = 20000;  // less than it takes to write a file
  const int64_t now = monotonic_ns();
  if (now - file_checked_ns_ < kBetween) return Status();
  MRT_TRY(program_->check_unchanged());
  file_checked_ns_ = now;
  return Status();
}

bool Session::same_shapes(const RunRequest& r) const {
  if (!layout_ || layout_->entry != r.entry) return false;
  const int64_t* last = last_extents_.data();
  for (size_t i = 0; i < r.input_count; ++i) {
    const mrt_tensor& t = r.inputs[i];
    for (int32_t d = 0; d < t.ndim; ++d)
      if (t.shape[d] != last[d]) return false;
    last += t.ndim;
  }
  return true;
}

// ---- inputs, outputs, states ----

Status Session::place_inputs(const RunRequest& r) {
  const EntryInfo& info = program_->entries()[r.entry];
  for (size_t i = 0; i < r.input_count; ++i) {
    const mrt_tensor& t = r.inputs[i];
    const size_t bytes = layout_->input_bytes[i];
    if (!t.data && bytes > 0)
      return fail(MRT_ERROR_INVALID_ARGUMENT, "input '%s' has no data", info.input_texts[i].name.c_str());
    const bool dense = is_contiguous(t.shape, t.strides, t.ndim);
    if (bytes > 0 && dense && aligned(t.data, info.input_texts[i].dtype) && !must_copy(r, i, span_of(t.data, bytes))) {
      layout_->set_external(i, static_cast<uint8_t*>(t.data));
      continue;
    }
    if (!inputs_.reserve(layout_->input_total + kAlignment))
      return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for a dense copy of input '%s'",
                  info.input_texts[i].name.c_str());
    uint8_t* copy = inputs_.data() + layout_->input_offsets[i];
    if (bytes > 0 && dense)
      std::memcpy(copy, t.data, bytes);
    else if (bytes > 0)
      copy_strided<true>(copy, static_cast<uint8_t*>(t.data), t.shape, t.strides, t.ndim,
                         info.input_texts[i].dtype.bytes());
    layout_->set_external(i, copy);
  }
  return Status();
}

// Whether the run may write over an input that is still to be read.
bool Session::must_copy(const RunRequest& r, size_t input, const Span& span) const {
  // What this session gave away may be given to it, but is about to be written anew.
  const void* data = r.inputs[input].data;
  if (outputs_.owns(data) || executor_.values().owns(data) || overlaps_state(r, span)) return true;
  // Results are delivered one after the other, and one may be the input itself.
  const EntryInfo& info = program_->entries()[r.entry];
  bool delivered = false, over = false;
  for (size_t i = 0; i < r.output_count; ++i) {
    const mrt_tensor& t = r.outputs[i];
    size_t room = t.bytes;
    if (t.data && room == 0 && t.shape && t.ndim > 0 && t.ndim <= MRT_MAX_RANK)
      (void)tensor_bytes(info.output_texts[i].dtype, t.shape, static_cast<size_t>(t.ndim), &room);
    over = over || (t.data && span.overlaps(span_of(t.data, std::max<size_t>(room, layout_->outputs[i].bytes))));
    delivered = delivered || program_->root(layout_->outputs[i].value) == info.entry->inputs[input];
  }
  return over && delivered;
}

bool Session::overlaps_input(const RunRequest& r, const Span& span) const {
  for (size_t i = 0; i < r.input_count; ++i)
    if (span.overlaps(span_of(layout_->external_base[i], layout_->input_bytes[i]))) return true;
  return false;
}

bool Session::overlaps_state(const RunRequest& r, const Span& span) const {
  if (!r.state) return false;
  for (size_t s = 0; s < program_->plan().states.size(); ++s)
    if (span.overlaps(span_of(r.state->data(s), r.state->bytes(s)))) return true;
  return false;
}

// A tensor that a run filled in with session memory is no buffer of the caller's, whichever session it was.
void Session::forget_own_outputs(const RunRequest& r) const {
  for (size_t i = 0; i < r.output_count; ++i) {
    mrt_tensor& t = r.outputs[i];
    if (!t.data || !(outputs_.owns(t.data) || executor_.values().owns(t.data) || is_issued(t))) continue;
    t.data = nullptr;
    t.shape = t.strides = nullptr;
    t.ndim = 0;
    t.bytes = 0;
  }
}

uint8_t* Session::session_output(const OutputPlace& place) {
  if (!outputs_.reserve(layout_->output_total + kAlignment)) return nullptr;
  return outputs_.data() + place.session_offset;
}

// Decides for each output whether steps write it into the caller's memory, into the session's, or elsewhere.
Status Session::place_outputs(const RunRequest& r) {
  const EntryInfo& info = program_->entries()[r.entry];
  std::fill(written_.begin(), written_.end(), Span());
  for (size_t i = 0; i < r.output_count; ++i) {
    const OutputPlace& place = layout_->outputs[i];
    const mrt_tensor& t = r.outputs[i];
    in_place_[i] = 0;
    if (t.data && !place.dynamic) MRT_TRY(check_room(r, i, layout_->values[place.value]));
    if (place.external < 0) continue;
    if (t.data && aligned(t.data, info.output_texts[i].dtype) && is_contiguous(t.shape, t.strides, t.ndim) &&
        !overlaps_input(r, written_[i])) {
      in_place_[i] = 1;
      layout_->set_external(static_cast<size_t>(place.external), static_cast<uint8_t*>(t.data));
      continue;
    }
    uint8_t* memory = session_output(place);
    if (!memory)
      return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for the %zu bytes of output '%s'", place.bytes,
                  info.output_texts[i].name.c_str());
    layout_->set_external(static_cast<size_t>(place.external), memory);
  }
  return Status();
}

Status Session::place_states(const RunRequest& r) {
  const EntryInfo& info = program_->entries()[r.entry];
  if (!info.uses_states) return Status();
  if (!r.state)
    return fail(MRT_ERROR_NO_STATE, "entry '%s' keeps states; create one with mrt_state_create and pass it",
                info.entry->name.c_str());
  for (size_t s = 0; s < program_->plan().states.size(); ++s)
    layout_->set_external(layout_->state_slot + s, r.state->data(s));
  for (const uint32_t s : layout_->staged)
    if (void* value = staged_value(s)) std::memcpy(value, r.state->data(s), r.state->bytes(s));
  return Status();
}

Status Session::place_seed(const RunRequest& r) {
  if (layout_->seed_slot < 0) return Status();
  uint64_t seed = r.seed.value_or(0);
  if (!r.seed && getentropy(&seed, sizeof(seed)) != 0)
    return fail(MRT_ERROR_RUN, "the operating system gives no random number for a seed; set one in mrt_run_options");
  seed_ = seed;
  layout_->set_external(static_cast<size_t>(layout_->seed_slot), reinterpret_cast<uint8_t*>(&*seed_));
  return Status();
}

void Session::commit_states(const RunRequest& r) {
  executor_.commit();
  for (const uint32_t s : layout_->staged)
    if (const void* value = staged_value(s)) std::memcpy(r.state->data(s), value, r.state->bytes(s));
}

void* Session::staged_value(uint32_t state) const { return layout_->values[program_->plan().states[state].value].data; }

// What the run computed: finds every output's value, and room for it.
Status Session::complete_outputs(const RunRequest& r) {
  const EntryInfo& info = program_->entries()[r.entry];
  const size_t behind = align_up(layout_->output_total + 1, kAlignment);
  size_t total = behind;
  for (size_t i = 0; i < r.output_count; ++i) {
    const OutputPlace& place = layout_->outputs[i];
    const mrt_tensor& t = r.outputs[i];
    const char* name = info.output_texts[i].name.c_str();
    loose_[i] = 0;
    if (!issued_[i] && !(issued_[i] = take_issued()))
      return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for the shape of output '%s'", name);
    results_[i] = &layout_->values[place.value];
    if (place.dynamic) {
      MRT_TRY(executor_.values().read(place.value, &results_[i]));
      if (t.data) MRT_TRY(check_room(r, i, *results_[i]));
      if (!t.data && !executor_.values().owns(results_[i]->data)) {
        loose_[i] = total;
        total += align_up(std::max<size_t>(results_[i]->bytes, 1), kAlignment);
      }
    } else if (!t.data && place.external < 0 && !session_output(place)) {
      return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for the %zu bytes of output '%s'", place.bytes, name);
    }
  }
  if (total > behind && !outputs_.reserve(total))
    return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for the %zu bytes of the outputs", total);
  return Status();
}

// Copies what was not written in place, and tells the caller what came out.
void Session::deliver(const RunRequest& r) {
  for (size_t i = 0; i < r.output_count; ++i) {
    const OutputPlace& place = layout_->outputs[i];
    mrt_tensor& t = r.outputs[i];
    const Tensor& value = *results_[i];
    const bool own = !t.data;
    if (own) {
      t.data = value.data;
      t.strides = nullptr;
      t.bytes = value.bytes;
      // What is not the session's to give away (a constant, an input, a state) is copied.
      if (loose_[i] > 0 || (place.external < 0 && !place.dynamic)) {
        t.data = loose_[i] > 0 ? outputs_.data() + loose_[i] : session_output(place);
        if (value.bytes > 0) std::memcpy(t.data, value.data, value.bytes);
      }
    } else if (!in_place_[i] && value.bytes > 0) {
      if (is_contiguous(value.shape, t.strides, value.ndim))
        std::memmove(t.data, value.data, value.bytes);
      else
        copy_strided<false>(value.as<uint8_t>(), static_cast<uint8_t*>(t.data), value.shape, t.strides, value.ndim,
                            value.dtype.bytes());
    }
    own ? issued_[i]->give(t.data, t.bytes) : issued_[i]->take_back(t.data);
    t.dtype = {value.dtype.code, value.dtype.bits, 1};
    t.ndim = value.ndim;
    std::copy_n(value.shape, value.ndim, issued_[i]->shape);
    t.shape = issued_[i]->shape;
  }
}

}  // namespace mrt
