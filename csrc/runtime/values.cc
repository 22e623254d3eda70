#include "runtime/values.h"

#include <cstring>

#include "runtime/arguments.h"
#include "runtime/attrs.h"
#include "runtime/shapes.h"

namespace mrt {

using plan::Storage;

RunValues::RunValues(const Program& program, int32_t threads)
    : program_(program), plan_(program.plan()), threads_(threads) {
  bool dynamic = false;
  std::vector<uint32_t> given_values;
  for (const EntryInfo& info : program.entries()) {
    for (const uint8_t symbol : info.dynamic_symbols) dynamic = dynamic || symbol != 0;
    for (const uint32_t v : info.entry->outputs)
      if (info.dynamic_values[program.root(v)]) given_values.push_back(program.root(v));
  }
  if (dynamic) memory_.init(plan_.values.size(), given_values);
}

void RunValues::begin(Layout* layout) {
  layout_ = layout;
  info_ = &program_.entries()[layout->entry];
  if (memory_.empty()) return;
  memory_.reset();
  Bindings& bindings = layout->bindings;
  for (uint32_t s = 0; s < info_->dynamic_symbols.size(); ++s) {
    if (!info_->dynamic_symbols[s] || !bindings.symbol_known[s]) continue;
    bindings.symbol_known[s] = 0;
    program_.exprs().evaluate_dependents(s, &bindings);
  }
}

Status RunValues::read(uint32_t value, const Tensor** out) {
  if (is_dynamic(value)) {
    if (plan_.values[value].storage == Storage::view) MRT_TRY(resolve_view(value));
  } else if (layout_->value_errors[value] >= 0) {
    return error_of(value);
  }
  *out = &layout_->values[value];
  return Status();
}

Status RunValues::resolve_view(uint32_t value) {
  const uint32_t r = program_.root(value);
  if (!is_dynamic(r) && layout_->value_errors[r] >= 0) return error_of(r);
  Tensor& t = layout_->values[value];
  const Tensor& base = layout_->values[r];
  size_t bytes = 0, offset = 0;
  MRT_TRY(value_shape(program_, layout_->bindings, value, const_cast<int64_t*>(t.shape), &bytes));
  MRT_TRY(view_offset(program_, layout_->bindings, value, &offset));
  if (offset > base.bytes || bytes > base.bytes - offset)
    return fail(MRT_ERROR_RUN, "view '%s' reaches beyond the end of '%s'", plan_.values[value].name.c_str(),
                plan_.values[r].name.c_str());
  t.data = base.as<uint8_t>() + offset;
  t.bytes = bytes;
  return Status();
}

Status RunValues::define(uint32_t value, Tensor** out) {
  *out = &layout_->values[value];
  if (!is_dynamic(value)) return layout_->value_errors[value] < 0 ? Status() : error_of(value);
  if (plan_.values[value].storage == Storage::view) return resolve_view(value);
  Tensor& t = layout_->values[value];
  size_t bytes = 0;
  MRT_TRY(value_shape(program_, layout_->bindings, value, const_cast<int64_t*>(t.shape), &bytes));
  t.bytes = 0;  // until there is memory
  t.data = memory_.reserve(value, bytes > 0 ? bytes : 1);
  if (!t.data)
    return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for the %zu bytes of '%s'", bytes,
                plan_.values[value].name.c_str());
  t.bytes = bytes;
  return Status();
}

Status RunValues::copy(const plan::Step& step, uint32_t from, uint32_t to) {
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

Status RunValues::append(uint32_t value, const Tensor& slice) {
  Tensor& whole = layout_->values[value];
  const size_t need = whole.bytes + slice.bytes;
  uint8_t* data = memory_.grow(value, need > 0 ? need : 1, whole.bytes);
  if (!data)
    return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for %zu bytes of '%s'", need, plan_.values[value].name.c_str());
  if (slice.bytes > 0) std::memcpy(data + whole.bytes, slice.data, slice.bytes);
  whole.data = data;
  whole.bytes = need;
  return Status();
}

Status RunValues::complete(StepRun* s) {
  const plan::Step& step = *s->step;
  for (const plan::Arg& a : step.args) {
    const Tensor* t = nullptr;
    if (a.kind == plan::ArgKind::value) MRT_TRY(in_step(step, read(a.index, &t)));
  }
  for (const uint32_t v : step.outs) {
    Tensor* t = nullptr;
    MRT_TRY(in_step(step, define(v, &t)));
  }
  if (const plan::Arg* a = unknown_argument(layout_->bindings, step))
    return fail(MRT_ERROR_RUN, "step '%s': %s has no value, overflows or divides by zero", step.name.c_str(),
                program_.exprs().text(a->index).c_str());
  fill_arguments(*layout_, s);
  if (s->kind != plan::StepKind::kernel) return Status();
  MRT_TRY(in_step(step, measure(s, threads_)));
  if (scratch_.reserve(s->scratch)) return Status();
  return fail(MRT_ERROR_OUT_OF_MEMORY, "no memory for %zu bytes of scratch of step '%s'", s->scratch,
              step.name.c_str());
}

void RunValues::release(const StepInfo& step) {
  const uint32_t* values = program_.last_uses(step);
  for (uint32_t i = 0; i < step.last_use_count; ++i) memory_.release(values[i]);
}

Status RunValues::bind(const plan::Step& step, uint32_t symbol, int64_t value) {
  const plan::Symbol& s = plan_.symbols[symbol];
  if (!symbol_allows(s, value)) {
    const char *assumed = nullptr, *indices = nullptr, *number = nullptr, *refused = nullptr;
    if (StepAttrs(step).text("indices", &indices))
      return fail(MRT_ERROR_RUN,
                  "'%s': an index or a length is out of range; indices must name elements of the axis that they look "
                  "into, and lengths lie within it",
                  indices);
    if (StepAttrs(step).text("assumed", &assumed))
      return fail(MRT_ERROR_INVALID_ARGUMENT,
                  "the inputs break what this model was compiled to assume, '%s': give others, or compile it for the "
                  "shapes that it will get (--input-shape, input_shapes)",
                  assumed);
    if (StepAttrs(step).text("refused", &refused)) return fail(MRT_ERROR_INVALID_ARGUMENT, "%s", refused);
    if (StepAttrs(step).text("number", &number))
      return fail(MRT_ERROR_INVALID_ARGUMENT, "%s is %lld, expected %s", number, static_cast<long long>(value),
                  symbol_range(s).c_str());
    return fail(MRT_ERROR_RUN, "step '%s' gives '%s' the value %lld, expected %s", step.name.c_str(), s.name.c_str(),
                static_cast<long long>(value), symbol_range(s).c_str());
  }
  layout_->bindings.symbols[symbol] = value;
  layout_->bindings.symbol_known[symbol] = 1;
  program_.exprs().evaluate_dependents(symbol, &layout_->bindings);
  return Status();
}

}  // namespace mrt
