// Steps that give symbols their values, and tell them.
#include <cstring>

#include "runtime/executor.h"

namespace mrt {
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

Status Executor::run_bind(const StepRun& s) {
  const Tensor* t = nullptr;
  MRT_TRY(values_.read(s.step->args[0].index, &t));
  const size_t n = s.step->binds.size();
  if (t->bytes != n * t->dtype.bytes())
    return fail(MRT_ERROR_RUN, "step '%s' binds %zu symbols from a tensor of %zu elements", s.step->name.c_str(), n,
                t->bytes / t->dtype.bytes());
  for (size_t i = 0; i < n; ++i) {
    int64_t value = 0;
    if (!load_integer(*t, i, &value))
      return fail(MRT_ERROR_RUN, "step '%s' binds a value that does not fit 64 bits", s.step->name.c_str());
    MRT_TRY(values_.bind(*s.step, s.step->binds[i], value));
  }
  return Status();
}

Status Executor::run_shape(const StepRun& s) {
  Tensor* t = nullptr;
  MRT_TRY(values_.define(s.step->outs[0], &t));
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

}  // namespace mrt
