// Decoding of epilogue attributes, and the scalar formulas of the activations.
#include "kernels/epilogue/epilogue.h"

#include <cmath>
#include <limits>

#include "kernels/checks.h"

namespace mrt {
namespace {

struct ActInfo {
  const char* name;
  int args;              // how many act_args
  double defaults[2];    // where none are given
  bool needs_arguments;  // they must be given
};
const ActInfo kActs[] = {
    {"none", 0, {0, 0}, false},          {"relu", 0, {0, 0}, false},      {"clip", 2, {0, 0}, true},
    {"leaky_relu", 1, {0.01, 0}, false}, {"elu", 1, {1, 0}, false},       {"sigmoid", 0, {0, 0}, false},
    {"tanh", 0, {0, 0}, false},          {"gelu", 0, {0, 0}, false},      {"gelu_tanh", 0, {0, 0}, false},
    {"silu", 0, {0, 0}, false},          {"hardswish", 0, {0, 0}, false}, {"hardsigmoid", 2, {0.2, 0.5}, false},
    {"softplus", 0, {0, 0}, false},      {"mish", 0, {0, 0}, false},      {"exp", 0, {0, 0}, false},
    {"sqrt", 0, {0, 0}, false},          {"abs", 0, {0, 0}, false},
};
constexpr int kActCount = sizeof(kActs) / sizeof(kActs[0]);

Status decode_arguments(const Attrs& attrs, const char* contract, const ActInfo& info, double* values) {
  const double* given = nullptr;
  size_t n = 0;
  values[0] = info.defaults[0];
  values[1] = info.defaults[1];
  const bool present = attrs.floats("act_args", &given, &n) && n > 0;
  if (!present && !info.needs_arguments) return Status();
  if (!present || n != static_cast<size_t>(info.args)) {
    return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: activation '%s' has %zu numbers in 'act_args', expected %d", contract,
                info.name, n, info.args);
  }
  for (size_t i = 0; i < n; ++i) {
    if (std::isnan(given[i])) {
      return fail(MRT_ERROR_INVALID_ARGUMENT, "%s: 'act_args' of activation '%s' holds a NaN", contract, info.name);
    }
    values[i] = given[i];
  }
  return Status();
}

double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }
double clamp(double x, double lo, double hi) {
  if (std::isnan(x)) return x;
  return x < lo ? (lo < hi ? lo : hi) : (x > hi ? hi : x);
}

}  // namespace

Status decode_epilogue(const Attrs& attrs, const char* contract, bool residual_allowed, Epilogue* out) {
  const char* choices[kActCount + 1] = {};
  for (int i = 0; i < kActCount; ++i) choices[i] = kActs[i].name;
  int32_t act = 0;
  MRT_TRY(attr_choice(attrs, contract, "act", choices, &act));
  double values[2];
  MRT_TRY(decode_arguments(attrs, contract, kActs[act], values));
  int64_t after = 0;
  MRT_TRY(attr_int(attrs, contract, "residual_after", 0, residual_allowed ? 1 : 0, &after));
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

const EpilogueTable* epilogue_table(Isa isa) {
  static const EpilogueTable* const tables[] = {
#if defined(MRT_KERNELS_AVX512)
      &kEpilogueAvx512,
#endif
#if defined(MRT_KERNELS_AVX2)
      &kEpilogueAvx2,
#endif
      &kEpilogueScalar, nullptr};
  return kernel_of(tables, isa);
}

}  // namespace mrt
