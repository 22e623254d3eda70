// Decoding of epilogue attributes, and the scalar formulas of the activations.
#include "kernels/epilogue/epilogue.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/checks.h"

namespace mrt {
namespace {

struct ActInfo {
  int args;              // how many act_args
  double defaults[2];    // where none are given
  bool needs_arguments;  // they must be given
};
const ActInfo kActs[] = {
#define MRT_ACT(name, count, first, second, needed) {count, {first, second}, needed},
#include "kernels/epilogue/acts.inc"
#undef MRT_ACT
};
constexpr const char* kActNames =
#define MRT_ACT(name, count, first, second, needed) #name " "
#include "kernels/epilogue/acts.inc"
#undef MRT_ACT
    ;

constexpr Attribute kAct = choice("act", kActNames);
constexpr Attribute kActArgs = numbers("act_args", 2, -kNoBound, kNoBound)
                                   .with(kDerived)  // the activation's
                                   .with(kListed)
                                   .with(kInfinite);

Status decode_arguments(const Attrs& attrs, const ActInfo& info, double* values) {
  values[0] = info.defaults[0];
  values[1] = info.defaults[1];
  int32_t n = 0;
  MRT_TRY(attr_numbers(attrs, "act_args", values, &n));
  if (n <= 0 && !info.needs_arguments) return Status();
  if (n != info.args) {
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: 'act_args' has %d numbers, expected the %d of the activation",
                attrs.contract().name, std::max(n, 0), info.args);
  }
  for (int32_t i = 0; i < n; ++i) {
    if (std::isnan(values[i]))
      return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: 'act_args' holds a NaN", attrs.contract().name);
  }
  return Status();
}

double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }
double clamp(double x, double lo, double hi) {
  if (std::isnan(x)) return x;
  return x < lo ? (lo < hi ? lo : hi) : (x > hi ? hi : x);
}

}  // namespace

const Attribute kEpilogueAttributes[3] = {kAct, kActArgs, integer("residual_after", 0, 1, 0)};
const Attribute kActivationAttributes[2] = {kAct, kActArgs};

Status decode_epilogue(const Attrs& attrs, Epilogue* out) {
  const Contract& contract = attrs.contract();
  int32_t act = 0;
  double values[2] = {0, 0};
  if (contract.find("act") != nullptr) {
    MRT_TRY(attr_choice(attrs, "act", &act));
    MRT_TRY(decode_arguments(attrs, kActs[act], values));
  }
  int64_t after = 0;
  if (contract.find("residual_after") != nullptr) MRT_TRY(attr_int(attrs, "residual_after", &after));
  const float infinity = std::numeric_limits<float>::infinity();
  *out = Epilogue{static_cast<Act>(act),         after != 0, static_cast<float>(values[0]),
                  static_cast<float>(values[1]), -infinity,  infinity};
  if (out->act == Act::relu) out->lo = 0.0f;
  if (out->act == Act::clip) {
    out->lo = out->a;
    out->hi = out->b;
  }
  return Status();
}

double epilogue_reference(const Epilogue& e, double x) {
  const double a = e.a, b = e.b;
  switch (e.act) {
    case Act::none:
      return x;
    case Act::relu:
      return x < 0 ? 0.0 : x;
    case Act::clip:
      return clamp(x, a, b);
    case Act::leaky_relu:
      return x > 0 ? x : a * x;
    case Act::elu:
      return x > 0 ? x : a * std::expm1(x);
    case Act::sigmoid:
      return 1.0 / (1.0 + std::exp(-x));
    case Act::tanh:
      return std::tanh(x);
    case Act::gelu:
      return 0.5 * x * (1.0 + std::erf(x * 0.70710678118654752));
    case Act::gelu_tanh:
      return 0.5 * x * (1.0 + std::tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
    case Act::silu:
      return x / (1.0 + std::exp(-x));
    case Act::hardswish:
      return x * clamp(x / 6.0 + 0.5, 0.0, 1.0);
    case Act::hardsigmoid:
      return clamp(a * x + b, 0.0, 1.0);
    case Act::softplus:
      return softplus(x);
    case Act::mish:
      return x * std::tanh(softplus(x));
    case Act::exp:
      return std::exp(x);
    case Act::sqrt:
      return std::sqrt(x);
    case Act::abs:
      return std::fabs(x);
  }
  return x;
}

}  // namespace mrt
