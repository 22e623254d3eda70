// Attributes and operands of what follows a product of 8-bit integers; see blocked.h.
#include <cinttypes>
#include <cmath>

#include "kernels/checks.h"
#include "kernels/qgemm/blocked.h"

namespace mrt {
namespace {

constexpr DType kInt8{MRT_INT, 8};
constexpr DType kInt32{MRT_INT, 32};
constexpr int kResidualAt = 4, kAScale = 5, kAZero = 6, kWZero = 7;

bool adds_bytes(const Tensor* in, int n_in) {
  return present(in, n_in, kResidualAt) && in[kResidualAt].dtype.bits == 8;
}

// y is the sums: nothing may stand between.
Status check_sums(const char* contract, const QOutput& o, const Tensor* in, int n_in) {
  const Epilogue& e = o.epilogue;
  const bool none = e.clamp_only() && !(e.lo > -__builtin_inff()) && !(e.hi < __builtin_inff());
  if (none && !present(in, n_in, 3) && !present(in, n_in, kResidualAt) && !present(in, n_in, kAScale)) return Status();
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

// Within these bounds no quotient leaves the normal numbers.
constexpr double kLeastScale = 0x1p-40, kMostScale = 0x1p40;
const Attribute kQSumAttributes[5] = {number("r_scale", 1, kLeastScale, kMostScale), integer("r_zero", 0, 255, 0),
                                      number("x_scale", 1, kLeastScale, kMostScale), integer("x_zero", 0, 255, 0),
                                      integer("x_max", 0, 255, 255)};

Status decode_q_sum(const Attrs& attrs, const QTileTable* table, QOutput* out) {
  double r_scale = 0, x_scale = 0;
  int64_t r_zero = 0, x_zero = 0, x_max = 0;
  MRT_TRY(attr_float(attrs, "r_scale", &r_scale));
  MRT_TRY(attr_int(attrs, "r_zero", &r_zero));
  MRT_TRY(attr_float(attrs, "x_scale", &x_scale));
  MRT_TRY(attr_int(attrs, "x_zero", &x_zero));
  MRT_TRY(attr_int(attrs, "x_max", &x_max));
  QSum& s = out->sum;
  s.scale = static_cast<float>(x_scale);
  s.inverse = 1.0f / s.scale;
  s.lo = static_cast<float>(-x_zero);
  s.hi = static_cast<float>(x_max - x_zero);
  s.residual_scale = static_cast<float>(r_scale);
  s.residual_zero = static_cast<int32_t>(r_zero);
  s.y_scale = static_cast<float>(out->scale);
  s.quick = false;
  s.most = static_cast<float>(255 - out->zero);
  const bool none = r_scale == 1 && x_scale == 1;  // as where nothing is added
  for (const int lowest : {-128, 0}) {             // of bytes of either kind, else of those without a sign
    if (s.quick || none || !table || !table->quicken) break;
    s.least = static_cast<float>(lowest - out->zero);
    table->quicken(&s);
  }
  return Status();
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
  const bool scale_fits = o.scale >= kLeastScale && o.scale <= kMostScale;
  if (adds_bytes(in, n_in) && (y.dtype.bits != 8 || !o.epilogue.clamp_only() || !scale_fits)) {
    return fail(
        MRT_ERROR_INVALID_ARGUMENT,
        "%s: a residual of 8 bits is added where y is of 8 bits, y_scale between 2^-40 and 2^40 and the activation "
        "a clamp",
        contract);
  }
  MRT_TRY(check_extent(contract, "scale", in[2], 0, n));
  return present(in, n_in, kWZero) ? check_extent(contract, "w_zero", in[kWZero], 0, n) : Status();
}

QFinishCall q_finish_call(const QOutput& o, const Tensor* in, int n_in, const Tensor& y, int64_t columns) {
  QFinishCall f{};
  f.scale = in[2].as<const float>();
  f.bias = present(in, n_in, 3) ? in[3].as<const float>() : nullptr;
  f.bytes = adds_bytes(in, n_in) ? in[kResidualAt].as<const uint8_t>() : nullptr;
  f.sum = f.bytes ? &o.sum : nullptr;
  f.residual = present(in, n_in, kResidualAt) && !f.bytes ? in[kResidualAt].as<const float>() : nullptr;
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
  const float inverse = f.sum ? f.sum->inverse : f.inverse, lo = f.sum ? f.sum->lo : f.lo;
  const float hi = f.sum ? f.sum->hi : f.hi;
  const auto clamped = [&](float x) {
    const float above = x > lo ? x : lo;
    return above < hi ? above : hi;
  };
  QFolded out;  // all of it is written: zeros first would be a quarter of this function's time
  out.zero = 0;
  out.is_signed = out.fits = false;
  out.sum = nullptr;
  out.sum_lo = out.sum_hi = 0;
  const float last = f.quantized ? inverse : 1.0f;
  const auto columns = [&](int64_t n) {
    for (int64_t j = 0; j < n; ++j) out.start[j] = static_cast<int32_t>(-static_cast<uint32_t>(f.offset[j]));
    for (int64_t j = 0; j < n; ++j) out.scale[j] = f.scale[j] * f.a_scale * last;
    for (int64_t j = 0; j < n; ++j) out.bias[j] = f.bias ? f.bias[j] * last : 0.0f;
  };
  // Nearly always all: as many as a few vectors hold.
  if (f.n == kQPanel) {
    columns(kQPanel);
  } else {
    for (int64_t j = f.n; j < kQPanel; ++j) out.start[j] = 0, out.scale[j] = out.bias[j] = 0;
    columns(f.n);
  }
  out.columns = static_cast<int32_t>(f.n);
  out.floats = !f.quantized;
  out.residual_after = f.epilogue->residual_after;
  out.lo = f.epilogue->lo;
  out.hi = f.epilogue->hi;
  if (out.floats) return out;
  out.lo = clamped(f.epilogue->lo * inverse);
  out.hi = clamped(f.epilogue->hi * inverse);
  out.zero = f.zero;
  out.is_signed = f.lo + static_cast<float>(f.zero) < 0;
  int32_t beyond = 0;  // without a branch, so that it is vectorised
  for (int64_t j = 0; j < kQPanel; ++j) {
    beyond |= static_cast<int32_t>(!(std::fabs(out.scale[j]) <= 0.5f)) |
              static_cast<int32_t>(!(std::fabs(out.bias[j]) <= 0x1p29f));
  }
  out.fits = beyond == 0;
  out.sum = f.sum;
  out.sum_lo = f.lo;
  out.sum_hi = f.hi;
  return out;
}

}  // namespace mrt
