// What happens to an accumulator before it is a result: bias, residual, activation (docs/kernels.md, "Epilogue").
//
// Bias, residual, relu and clip are done in registers by the kernels that compute the accumulator; any other activation
// runs over the tile just written, while it is in cache.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace mrt {

enum class Act : uint8_t {
#define MRT_ACT(name, count, first, second, needed) name,
#include "kernels/epilogue/acts.inc"
#undef MRT_ACT
};

struct Epilogue {
  Act act;
  bool residual_after;  // y = act(acc + bias) + r, else y = act(acc + bias + r)
  float a, b;           // act_args
  float lo, hi;         // what the accumulator is clamped to: relu and clip; else without bounds
  bool clamp_only() const { return act <= Act::clip; }
};

// Activation in place on a tile, then, if residual is not null, its addition.
struct EpilogueTable {
  void (*apply)(const Epilogue& e, float* c, int64_t ldc, int64_t rows, int64_t cols, const float* residual,
                int64_t ldr);
};
#define MRT_TABLE EpilogueTable
#define MRT_LIST kEpilogue
#define MRT_KERNELS "kernels/epilogue/kernels.inc"
#include "kernels/kernel_list.inc"

// Attributes of a contract with an epilogue, and of one whose epilogue has no residual.
extern const Attribute kEpilogueAttributes[3];
extern const Attribute kActivationAttributes[2];
// Reads those of them that the contract has.
Status decode_epilogue(const Attrs& attrs, Epilogue* out);

// The formulas, in double precision: the oracle.
double epilogue_reference(const Epilogue& e, double x);
inline float epilogue_reference(const Epilogue& e, double acc, const float* bias, const float* residual) {
  double x = acc + (bias ? static_cast<double>(*bias) : 0.0);
  if (residual && !e.residual_after) x += static_cast<double>(*residual);
  x = epilogue_reference(e, x);
  if (residual && e.residual_after) x += static_cast<double>(*residual);
  return static_cast<float>(x);
}

}  // namespace mrt
