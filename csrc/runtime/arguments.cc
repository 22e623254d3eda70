#include "runtime/arguments.h"

#include <algorithm>

namespace mrt {
namespace {

using plan::ArgKind;

// Into how many pieces a generated function is worth cutting that works on so many bytes: each is work of many
// microseconds.
int32_t code_pieces(size_t bytes) { return static_cast<int32_t>(std::min<size_t>(1 + (bytes >> 20), 64)); }

void fill_kernel(const Layout& layout, StepRun* s) {
  const plan::Step& step = *s->step;
  for (size_t i = 0; i < step.args.size(); ++i) {
    if (step.args[i].kind == ArgKind::value)
      s->in[i] = layout.values[step.args[i].index];
    else
      s->in[i].ndim = -1;
  }
  for (size_t i = 0; i < step.outs.size(); ++i) s->out[i] = layout.values[step.outs[i]];
}

// Tensors in, tensors out, then integers.
void fill_code(const Layout& layout, StepRun* s) {
  size_t at = 0, bytes = 0;
  const auto add = [&](uint32_t v) {
    const Tensor& x = layout.values[v];
    int64_t* shape = const_cast<int64_t*>(x.shape);
    s->dl[at] = {x.data, {1, 0}, x.ndim, {x.dtype.code, x.dtype.bits, 1}, shape, shape + x.ndim, 0};
    FfiAny& any = s->ffi[at];
    any.type = kFfiTensor;
    any.padding = 0;
    any.as_pointer = &s->dl[at++];
    bytes += x.bytes;
  };
  for (const plan::Arg& a : s->step->args)
    if (a.kind == ArgKind::value) add(a.index);
  for (const uint32_t v : s->step->outs) add(v);
  s->pieces = code_pieces(bytes);
  for (const plan::Arg& a : s->step->args) {
    if (a.kind != ArgKind::expression) continue;
    FfiAny& any = s->ffi[at++];
    any.type = kFfiInt;
    any.padding = 0;
    any.as_int = layout.bindings.exprs[a.index].value;
  }
}

}  // namespace

void fill_arguments(const Layout& layout, StepRun* s) {
  if (s->kind == plan::StepKind::kernel) fill_kernel(layout, s);
  if (s->kind == plan::StepKind::code) fill_code(layout, s);
}

const plan::Arg* unknown_argument(const Bindings& bindings, const plan::Step& step) {
  for (const plan::Arg& a : step.args)
    if (a.kind == ArgKind::expression && bindings.exprs[a.index].known != Known::yes) return &a;
  return nullptr;
}

Status measure(StepRun* s, int32_t threads) {
  const StepInfo& info = s->info;
  MRT_TRY(check_call(*info.op, info.params, s->in, s->n_in, s->out, s->n_out));
  s->scratch = scratch_bytes(*info.op, info.params, s->in, s->n_in, s->out, s->n_out, threads);
  return Status();
}

Status in_step(const plan::Step& step, const Status& status) {
  if (status.ok()) return status;
  return fail(status.code(), "step '%s': %s", step.name.c_str(), status.message().c_str());
}

}  // namespace mrt
