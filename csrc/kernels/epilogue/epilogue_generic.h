// Activations over a tile, written once for every vector width. Included by one file per ISA.
#pragma once

#include "kernels/epilogue/epilogue.h"
#include "simd/math.h"

namespace mrt {
namespace {

template <typename V, typename F>
MRT_INLINE void for_tile(float* c, int64_t ldc, int64_t rows, int64_t cols, const float* r, int64_t ldr, F f) {
  for (int64_t i = 0; i < rows; ++i, c += ldc, r += ldr) {
    int64_t j = 0;
    for (; j + V::width <= cols; j += V::width) {
      V y = f(V::load(c + j));
      if (r) y = y + V::load(r + j);
      y.store(c + j);
    }
    if (j < cols) {
      V y = f(V::load(c + j, cols - j));
      if (r) y = y + V::load(r + j, cols - j);
      y.store(c + j, cols - j);
    }
  }
}

// Where there is no residual its stride is 0, so that the null pointer stays one.
template <typename V>
void apply_epilogue(const Epilogue& e, float* c, int64_t ldc, int64_t rows, int64_t cols, const float* r, int64_t ldr) {
  const V a = V::set(e.a), b = V::set(e.b), zero = V::zero(), one = V::set(1.0f);
  if (!r) ldr = 0;
#define MRT_ACT(body) return for_tile<V>(c, ldc, rows, cols, r, ldr, [&](V x) { return body; })
  switch (e.act) {
    case Act::none:
    case Act::relu:
    case Act::clip:
      MRT_ACT(min(V::set(e.hi), max(V::set(e.lo), x)));
    case Act::leaky_relu:
      MRT_ACT(select(x > zero, x, a * x));
    case Act::elu:
      MRT_ACT(select(x > zero, x, a * expm1(x)));
    case Act::sigmoid:
      MRT_ACT(sigmoid(x));
    case Act::tanh:
      MRT_ACT(tanh(x));
    case Act::gelu:
      MRT_ACT(gelu(x));
    case Act::gelu_tanh:
      MRT_ACT(gelu_tanh(x));
    case Act::silu:
      MRT_ACT(silu(x));
    case Act::hardswish:
      MRT_ACT(x * min(one, max(zero, fma(x, V::set(1.0f / 6.0f), V::set(0.5f)))));
    case Act::hardsigmoid:
      MRT_ACT(min(one, max(zero, fma(x, a, b))));
    case Act::softplus:
      MRT_ACT(softplus(x));
    case Act::mish:
      MRT_ACT(mish(x));
    case Act::exp:
      MRT_ACT(exp(x));
    case Act::sqrt:
      MRT_ACT(sqrt(x));
    case Act::abs:
      MRT_ACT(abs(x));
  }
#undef MRT_ACT
}

}  // namespace
}  // namespace mrt
