// Activations over a tile, written once for every vector width. Included by one file per ISA.
#pragma once

#include "kernels/epilogue/epilogue.h"
#include "simd/math.h"
#include "simd/pair.h"

namespace mrt {
namespace {

// One activation after another waits for its own chain of operations only, so full vectors are taken two at a time.
template <typename V, typename F>
MRT_INLINE void for_tile(float* c, int64_t ldc, int64_t rows, int64_t cols, const float* r, int64_t ldr, F f) {
  for (int64_t i = 0; i < rows; ++i, c += ldc, r += ldr) {
    int64_t j = 0;
    for (; j + 2 * V::width <= cols; j += 2 * V::width) {
      Pair<V> y = f(Pair<V>{V::load(c + j), V::load(c + j + V::width)});
      if (r) y = y + Pair<V>{V::load(r + j), V::load(r + j + V::width)};
      y.a.store(c + j);
      y.b.store(c + j + V::width);
    }
    for (; j < cols; j += V::width) {
      const int64_t n = cols - j < V::width ? cols - j : V::width;
      V y = f(V::load(c + j, n));
      if (r) y = y + V::load(r + j, n);
      y.store(c + j, n);
    }
  }
}

// Where there is no residual its stride is 0, so that the null pointer stays one.
template <typename V>
void apply_epilogue(const Epilogue& e, float* c, int64_t ldc, int64_t rows, int64_t cols, const float* r, int64_t ldr) {
  if (!r) ldr = 0;
#define MRT_ACT(body)                                          \
  return for_tile<V>(c, ldc, rows, cols, r, ldr, [&](auto x) { \
    using W [[maybe_unused]] = decltype(x);                    \
    return body;                                               \
  })
  switch (e.act) {
    case Act::none:
    case Act::relu:
    case Act::clip:
      MRT_ACT(min(W::set(e.hi), max(W::set(e.lo), x)));
    case Act::leaky_relu:
      MRT_ACT(select(x > W::zero(), x, W::set(e.a) * x));
    case Act::elu:
      MRT_ACT(select(x > W::zero(), x, W::set(e.a) * expm1(x)));
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
      // The float below 1/6 and three times it: so the line is exactly 0 at -3, where x / 6 and 0.5 would cancel.
      MRT_ACT(x * min(W::set(1.0f), max(W::zero(), fma(x, W::set(0x1.555554p-3f), W::set(0x1.fffffep-2f)))));
    case Act::hardsigmoid:
      MRT_ACT(min(W::set(1.0f), max(W::zero(), fma(x, W::set(e.a), W::set(e.b)))));
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
