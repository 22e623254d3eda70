// Attributes and operands of what follows a product of 8-bit integers; see blocked.h.
#include <cinttypes>
#include <cmath>

#include "kernels/checks.h"
#include "kernels/qgemm/blocked.h"

namespace mrt {
namespace {

constexpr DType kInt8{MRT_INT, 8};
constexpr DType kInt32{MRT_INT, 32};
constexpr int kAScale = 5, kAZero = 6, kWZero = 7;

// y is the sums: nothing may stand between.
Status check_sums(const char* contract, const QOutput& o, const Tensor* in, int n_in) {
  const Epilogue& e = o.epilogue;
  const bool none = e.clamp_only() && !(e.lo > -__builtin_inff()) && !(e.hi < __builtin_inff());
  if (none && !present(in, n_in, 3) && !present(in, n_in, 4) && !present(in, n_in, kAScale)) return Status();
  return fail(MRT_ERROR_INVALID_ARGUMENT,
              "%s: y of int32 is the sums alone, without bias, residual, activation or scale", contract);
}

}  // namespace

int64_t q_a_zero(const Tensor* in, int n_in, int64_t fixed) {
  return present(in, n_in, kAZero) ? *in[kAZero].as<const uint8_t>() : fixed;
}
const int8_t* q_w_zero(const Tensor* in, int n_in) {
  return present(in, n_in, kWZero) ? in[kWZero].as<const int8_t>() : nullptr;
}

Status q_check_zeros(const char* contract, int64_t depth, const Tensor* in, int n_in) {
  if (!present(in, n_in, kWZero) || depth <= kQMaxDepth / 2) return Status();
  return fail(MRT_ERROR_INVALID_ARGUMENT,
              "%s: with zero points of the weights sums of %" PRId64
              " products do not fit in 32 bits, expected at most %" PRId64,
              contract, depth, kQMaxDepth / 2);
}

const Attribute kQOutputAttributes[3] = {number("y_scale", 1), integer("y_zero", -128, 255, 0),
                                         integer("y_max", 0, 255).with(kDerived)};  // that of y's type
const Attribute kQInputAttributes[2] = {integer("a_zero", 0, 255, 0), integer("a_max", 0, 255, 255).with(kPackingOnly)};

Status decode_q_output(const Attrs& attrs, QOutput* out) {
  out->y_max = -1;
  MRT_TRY(decode_epilogue(attrs, &out->epilogue));
  MRT_TRY(attr_float(attrs, "y_scale", &out->scale));
  MRT_TRY(attr_int(attrs, "y_zero", &out->zero));
  MRT_TRY(attr_int(attrs, "y_max", &out->y_max));
  const float scale = static_cast<float>(out->scale);
  if (scale > 0.0f && std::isfinite(1.0f / scale)) return Status();
  return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: y_scale is %g, expected a number above 0 whose inverse is finite",
              attrs.contract().name, out->scale);
}

Status check_q_operands(const char* contract, const QOutput& o, int64_t n, const Tensor* in, int n_in,
                        const Tensor& y) {
  const bool is_signed = y.dtype == kInt8;
  if (y.dtype == kInt32) MRT_TRY(check_sums(contract, o, in, n_in));
  const int64_t lo = is_signed ? -128 : 0, hi = is_signed ? 127 : 255;
  if (y.dtype.bits == 8 && (o.zero < lo || o.zero > hi)) {
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: y_zero is %d, which y's type does not hold", contract,
                static_cast<int>(o.zero));
  }
  MRT_TRY(check_extent(contract, "scale", in[2], 0, n));
  return present(in, n_in, kWZero) ? check_extent(contract, "w_zero", in[kWZero], 0, n) : Status();
}

QFinishCall q_finish_call(const QOutput& o, const Tensor* in, int n_in, const Tensor& y, int64_t columns) {
  QFinishCall f{};
  f.scale = in[2].as<const float>();
  f.bias = present(in, n_in, 3) ? in[3].as<const float>() : nullptr;
  f.residual = present(in, n_in, 4) ? in[4].as<const float>() : nullptr;
  f.a_scale = present(in, n_in, kAScale) ? *in[kAScale].as<const float>() : 1.0f;
  f.ldr = f.ldy = columns;
  f.epilogue = &o.epilogue;
  f.y = y.data;
  f.quantized = y.dtype.bits == 8;
  f.sums = y.dtype == kInt32;
  const bool is_signed = y.dtype == kInt8;
  const int64_t hi = is_signed ? 127 : 255, highest = o.y_max >= 0 && o.y_max < hi ? o.y_max : hi;
  f.inverse = 1.0f / static_cast<float>(o.scale);
  f.zero = static_cast<int32_t>(o.zero);
  f.lo = static_cast<float>((is_signed ? -128 : 0) - o.zero);
  f.hi = static_cast<float>(highest - o.zero);
  return f;
}

QFolded q_fold(const QFinishCall& f) {
  const auto clamped = [&](float x) {
    const float above = x > f.lo ? x : f.lo;
    return above < f.hi ? above : f.hi;
  };
  QFolded out{};
  for (int64_t j = 0; j < f.n; ++j) {
    out.start[j] = static_cast<int32_t>(-static_cast<uint32_t>(f.offset[j]));
    out.scale[j] = f.scale[j] * f.a_scale;
    out.bias[j] = f.bias ? f.bias[j] : 0.0f;
    if (!f.quantized) continue;
    out.scale[j] *= f.inverse;
    out.bias[j] *= f.inverse;
  }
  out.floats = !f.quantized;
  out.residual_after = f.epilogue->residual_after;
  out.lo = f.epilogue->lo;
  out.hi = f.epilogue->hi;
  if (out.floats) return out;
  out.lo = clamped(f.epilogue->lo * f.inverse);
  out.hi = clamped(f.epilogue->hi * f.inverse);
  out.zero = f.zero;
  return out;
}

}  // namespace mrt
