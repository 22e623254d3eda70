#include "runtime/session.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "runtime/shapes.h"
#include "runtime/strided.h"

namespace mrt {
namespace {

// Kernels and generated functions count on elements at their natural alignment, and on no more.
bool aligned(const void* p, DType dtype) {
  const size_t element = dtype.bytes() < 8 ? dtype.bytes() : 8;
  return (reinterpret_cast<uintptr_t>(p) & (element - 1)) == 0;
}

const char* dtype_name(DType t, char* buffer, size_t size) {
  const char* base = t.code == MRT_INT       ? "int"
                     : t.code == MRT_UINT    ? "uint"
                     : t.code == MRT_FLOAT   ? "float"
                     : t.code == MRT_BFLOAT  ? "bfloat"
                     : t.code == MRT_BOOL    ? "bool"
                     : t.code == MRT_COMPLEX ? "complex"
                                             : "dtype of code and bits ";
  constexpr struct {
    uint8_t code, bits;
    const char* name;
  } kNamed[] = {{MRT_BOOL, 8, "bool"},
                {MRT_FLOAT8_E4M3FN, 8, "float8_e4m3fn"},
                {MRT_FLOAT8_E4M3FNUZ, 8, "float8_e4m3fnuz"},
                {MRT_FLOAT8_E5M2, 8, "float8_e5m2"},
                {MRT_FLOAT8_E5M2FNUZ, 8, "float8_e5m2fnuz"},
                {MRT_FLOAT8_E8M0FNU, 8, "float8_e8m0fnu"},
                {MRT_FLOAT4_E2M1FN, 4, "float4_e2m1fn"}};
  const char* named = nullptr;
  for (const auto& n : kNamed)
    if (n.code == t.code && n.bits == t.bits) named = n.name;
  if (named)
    std::snprintf(buffer, size, "%s", named);
  else if (base[0] == 'd')
    std::snprintf(buffer, size, "%s%d, %d", base, t.code, t.bits);
  else
    std::snprintf(buffer, size, "%s%d", base, t.bits);
  return buffer;
}

// "[1, 3, 224]"
std::string shape_text(const int64_t* shape, int32_t ndim) {
  std::string text = "[";
  for (int32_t d = 0; d < ndim; ++d) text += (d ? ", " : "") + std::to_string(shape[d]);
  return text + "]";
}

std::string declared_text(const ValueText& value) {
  std::string text = "[";
  for (size_t d = 0; d < value.dims.size(); ++d)
    text += (d ? ", " : "") + (value.dims[d].extent >= 0 ? std::to_string(value.dims[d].extent) : value.texts[d]);
  return text + "]";
}

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
  last_.assign(extents, -1);
  program->exprs().reset(&bindings_);
}

Session::~Session() {
  for (IssuedOutput* record : issued_) give_back_issued(record);
  program_->release();
}

// ---- shapes ----

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

Status Session::check_input(const mrt_tensor& t, const ValueText& text) const {
  if (t.dtype.lanes > 1)
    return fail(MRT_ERROR_DTYPE, "input '%s' has elements of %d lanes, expected 1", text.name.c_str(), t.dtype.lanes);
  if (t.dtype.code != text.dtype.code || t.dtype.bits != text.dtype.bits) {
    char have[40], want[40];
    return fail(MRT_ERROR_DTYPE, "input '%s' is %s, expected %s", text.name.c_str(),
                dtype_name({t.dtype.code, t.dtype.bits}, have, sizeof(have)),
                dtype_name(text.dtype, want, sizeof(want)));
  }
  if (t.ndim > 0 && !t.shape)
    return fail(MRT_ERROR_SHAPE, "input '%s' has no shape, expected %zu extents: %s", text.name.c_str(),
                text.dims.size(), declared_text(text).c_str());
  if (t.ndim != static_cast<int32_t>(text.dims.size())) {
    const bool readable = t.ndim >= 0 && t.ndim <= MRT_MAX_RANK;
    return fail(MRT_ERROR_SHAPE, "input '%s' has %d dimensions%s%s, expected %zu: %s", text.name.c_str(), t.ndim,
                readable ? " " : "", readable ? shape_text(t.shape, t.ndim).c_str() : "", text.dims.size(),
                declared_text(text).c_str());
  }
  return Status();
}

bool Session::same_shapes(const RunRequest& r) const {
  if (!layout_ || layout_->entry != r.entry) return false;
  const int64_t* last = last_.data();
  for (size_t i = 0; i < r.input_count; ++i) {
    const mrt_tensor& t = r.inputs[i];
    for (int32_t d = 0; d < t.ndim; ++d)
      if (t.shape[d] != last[d]) return false;
    last += t.ndim;
  }
  return true;
}

Status Session::select_layout(const RunRequest& r) {
  layout_ = nullptr;
  MRT_TRY(bind(r));
  MRT_TRY(find_layout(r.entry));
  int64_t* last = last_.data();
  for (size_t i = 0; i < r.input_count; ++i)
    for (int32_t d = 0; d < r.inputs[i].ndim; ++d) *last++ = r.inputs[i].shape[d];
  return Status();
}

// Symbols take their values from dimensions that are a symbol, then from those that are scale * symbol + offset; then
// every dimension is compared with what its expression says.
Status Session::bind(const RunRequest& r) {
  const EntryInfo& info = program_->entries()[r.entry];
  std::fill(bindings_.symbol_known.begin(), bindings_.symbol_known.end(), uint8_t{0});
  std::fill(bindings_.symbols.begin(), bindings_.symbols.end(), 0);
  for (const bool plain : {true, false})
    for (size_t i = 0; i < r.input_count; ++i)
      for (size_t d = 0; d < info.inputs[i].size(); ++d) {
        const InputDim& dim = info.inputs[i][d];
        if (r.inputs[i].shape[d] < 0)
          return fail(MRT_ERROR_SHAPE, "input '%s' has extent %lld in dimension %zu, expected 0 or more",
                      info.input_texts[i].name.c_str(), static_cast<long long>(r.inputs[i].shape[d]), d);
        if (!dim.linear || bindings_.symbol_known[dim.symbol] || plain != (dim.scale == 1 && dim.offset == 0)) continue;
        MRT_TRY(bind_symbol(info.input_texts[i], d, dim, r.inputs[i].shape[d]));
      }
  program_->exprs().evaluate(&bindings_);
  MRT_TRY(check_dims(r));
  for (const plan::Check& check : info.entry->checks) {
    const ExprValue &a = bindings_.exprs[check.lhs], &b = bindings_.exprs[check.rhs];
    if (a.known == Known::yes && b.known == Known::yes && a.value == b.value) continue;
    if (program_->exprs().is_truth(check.lhs))
      return fail(MRT_ERROR_SHAPE, "%s (here %s)", check.message.c_str(), sizes_text(check.lhs).c_str());
    return fail(MRT_ERROR_SHAPE, "the inputs' shapes do not fit together: %s (%s must equal %s)", check.message.c_str(),
                program_->exprs().text(check.lhs).c_str(), program_->exprs().text(check.rhs).c_str());
  }
  return Status();
}

std::string Session::sizes_text(uint32_t expr) const {
  std::string text;
  const std::vector<plan::Symbol>& symbols = program_->plan().symbols;
  for (uint32_t s = 0; s < symbols.size(); ++s)
    if (bindings_.symbol_known[s] && program_->exprs().depends_on(expr, s))
      text += (text.empty() ? "" : ", ") + symbols[s].name + " is " + std::to_string(bindings_.symbols[s]);
  return text;
}

Status Session::bind_symbol(const ValueText& input, size_t dim, const InputDim& d, int64_t extent) {
  const plan::Symbol& symbol = program_->plan().symbols[d.symbol];
  int64_t rest = 0;
  const bool whole =
      !__builtin_sub_overflow(extent, d.offset, &rest) && !(rest == INT64_MIN && d.scale == -1) && rest % d.scale == 0;
  if (!whole)
    return fail(MRT_ERROR_SHAPE, "input '%s' has extent %lld in dimension %zu, which is %s for no whole %s",
                input.name.c_str(), static_cast<long long>(extent), dim, input.texts[dim].c_str(), symbol.name.c_str());
  const int64_t value = rest / d.scale;
  if (!symbol_allows(symbol, value)) {
    const bool plain = d.scale == 1 && d.offset == 0;
    return fail(MRT_ERROR_SHAPE, "input '%s' has extent %lld in dimension %zu (%s), expected %s%s%s",
                input.name.c_str(), static_cast<long long>(extent), dim, input.texts[dim].c_str(),
                plain ? "" : symbol.name.c_str(), plain ? "" : " to be ", symbol_range(symbol).c_str());
  }
  bindings_.symbols[d.symbol] = value;
  bindings_.symbol_known[d.symbol] = 1;
  return Status();
}

Status Session::check_dims(const RunRequest& r) const {
  const EntryInfo& info = program_->entries()[r.entry];
  for (size_t i = 0; i < r.input_count; ++i)
    for (size_t d = 0; d < info.inputs[i].size(); ++d) {
      const ExprValue& e = bindings_.exprs[info.inputs[i][d].expr];
      if (e.known == Known::yes && e.value == r.inputs[i].shape[d]) continue;
      const ValueText& text = info.input_texts[i];
      const std::string expected = e.known == Known::yes ? std::to_string(e.value) : "a number that fits 64 bits";
      return fail(MRT_ERROR_SHAPE, "input '%s' has extent %lld in dimension %zu, expected %s%s%s%s: shape %s, got %s",
                  text.name.c_str(), static_cast<long long>(r.inputs[i].shape[d]), d, expected.c_str(),
                  text.texts[d].empty() ? "" : " (", text.texts[d].c_str(), text.texts[d].empty() ? "" : ")",
                  declared_text(text).c_str(), shape_text(r.inputs[i].shape, r.inputs[i].ndim).c_str());
    }
  return Status();
}

// ---- layouts ----

Status Session::find_layout(uint32_t entry) {
  for (const std::unique_ptr<Layout>& l : layouts_) {
    if (l->entry != entry || l->key != bindings_.symbols) continue;
    layout_ = l.get();
    return reserve_memory();
  }
  std::unique_ptr<Layout> built;
  MRT_TRY(build_layout(*program_, entry, bindings_, threads_, &built));
  if (layouts_.size() < layout_limit_) {
    layouts_.push_back(std::move(built));
    layout_ = layouts_.back().get();
  } else {
    auto oldest = std::min_element(layouts_.begin(), layouts_.end(),
                                   [](const auto& a, const auto& b) { return a->last_used < b->last_used; });
    *oldest = std::move(built);
    layout_ = oldest->get();
  }
  return reserve_memory();
}

Status Session::reserve_memory() {
  Layout* l = layout_;
  const size_t need = l->arena_bytes + l->scratch_bytes + kAlignment;
  if (!arena_.reserve(need)) {
    layout_ = nullptr;
    return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for the %zu bytes that these shapes need", need);
  }
  if (l->arena_base != arena_.data()) {
    l->arena_base = arena_.data();
    for (const Patch& p : l->arena_patches) *p.where = l->arena_base + p.offset;
  }
  return Status();
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

// Whether the caller's tensor takes the value: dtype, and room by bytes or else by shape, which no other output takes.
Status Session::check_room(const RunRequest& r, size_t output, const Tensor& value) {
  const mrt_tensor& t = r.outputs[output];
  const char* name = program_->entries()[r.entry].output_texts[output].name.c_str();
  if (t.dtype.bits != 0 && (t.dtype.code != value.dtype.code || t.dtype.bits != value.dtype.bits)) {
    char have[40], want[40];
    return fail(MRT_ERROR_DTYPE, "output '%s' is to be written as %s, expected %s", name,
                dtype_name({t.dtype.code, t.dtype.bits}, have, sizeof(have)),
                dtype_name(value.dtype, want, sizeof(want)));
  }
  const bool has_shape = t.ndim >= 0 && t.ndim <= MRT_MAX_RANK && (t.shape || t.ndim == 0);
  const bool same = has_shape && t.ndim == value.ndim &&
                    std::equal(value.shape, value.shape + value.ndim, t.shape ? t.shape : value.shape);
  if (t.strides && !same)
    return fail(MRT_ERROR_SHAPE, "output '%s' has strides for the shape %s, expected %s", name,
                has_shape ? shape_text(t.shape, t.ndim).c_str() : "of another rank",
                shape_text(value.shape, value.ndim).c_str());
  if (r.exact_outputs && !same)
    return fail(MRT_ERROR_SHAPE,
                "the buffer for output '%s' has shape %s and the result has %s: give a buffer of that shape", name,
                has_shape ? shape_text(t.shape, t.ndim).c_str() : "of another rank",
                shape_text(value.shape, value.ndim).c_str());
  written_[output] = span_of(t.data, value.bytes, value.shape, t.strides, value.ndim, value.dtype.bytes());
  MRT_TRY(check_apart(r, output));
  if (t.strides) return Status();
  size_t room = t.bytes;
  if (room == 0 && (!has_shape || !tensor_bytes(value.dtype, t.shape, static_cast<size_t>(t.ndim), &room))) room = 0;
  if (room >= value.bytes) return Status();
  return fail(MRT_ERROR_CAPACITY, "the buffer for output '%s' has %zu bytes, expected at least %zu for shape %s", name,
              room, value.bytes, shape_text(value.shape, value.ndim).c_str());
}

// Of the outputs whose memory is known so far.
Status Session::check_apart(const RunRequest& r, size_t output) const {
  const std::vector<ValueText>& texts = program_->entries()[r.entry].output_texts;
  for (size_t i = 0; i < r.output_count; ++i)
    if (i != output && written_[output].overlaps(written_[i]))
      return fail(MRT_ERROR_INVALID_ARGUMENT, "the buffers for outputs '%s' and '%s' share memory: give each its own",
                  texts[i].name.c_str(), texts[output].name.c_str());
  if (overlaps_state(r, written_[output]))
    return fail(MRT_ERROR_INVALID_ARGUMENT,
                "the buffer for output '%s' lies in the run's state: give memory of its own",
                texts[output].name.c_str());
  return Status();
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
    return fail(MRT_ERROR_INVALID_ARGUMENT, "entry '%s' keeps states; create one with mrt_state_create and pass it",
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
