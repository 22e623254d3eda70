"""Random operators: noise from the kernels, and what the operators make of it. _drawn.py writes the same definitions for verification,
docs/random.md states them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from .._context import Context, Expr, as_dim
from .._drawn import largest_drawn
from .._registry import NotConvertible, converts
from .elementwise import converted
from .reduce import ordered

__all__ = ["noise", "thinned"]

OP = relax.op
_HALF = {
    "float16": 2048.0,
    "bfloat16": 256.0,
}  # uniform numbers in a half type are multiples of 1 over this, as in torch: never 1


def noise(c: Context, kind: str, shape: Sequence[Any], dtype: str) -> Expr:
    assert c.node is not None
    if c.node not in c.numbers:
        raise NotConvertible("a random operator without a number")
    return c.noise.call(c.emit, kind, shape, dtype, c.numbers[c.node], name=c.node.name)


def _uniform(c: Context, shape: Sequence[Any], dtype: str = "float64") -> Expr:
    """In [0, 1), in the dtype in which what draws is computed."""
    return noise(c, "uniform", shape, _draw_dtype(dtype))


def _normal(c: Context, shape: Sequence[Any], dtype: str) -> Expr:
    return noise(c, "normal", shape, _draw_dtype(dtype))


def _draw_dtype(dtype: str) -> str:
    if dtype.startswith("complex"):
        raise NotConvertible("complex random numbers")
    return "float64" if dtype == "float64" else "float32"


def _map_elements(c: Context, x: Expr, function: Callable[[Any], Any]) -> Expr:
    """function of each element, an expression of TIR."""

    def build(value: Any) -> Any:
        return te.compute(value.shape, lambda *index: function(value(*index)), name="drawn")

    return c.emit_te(build, x)


def _affine(c: Context, x: Expr, factor: Any, shift: Any) -> Expr:
    """x * factor + shift, numbers or tensors, in the dtype of x."""
    dtype = c.dtype(x)
    return c.emit(OP.add(c.emit(OP.multiply(x, c.tensor(factor, dtype))), c.tensor(shift, dtype)))


# ---- uniform and normal ----------------------------------------------------------------------------------------------


@converts("aten.rand.default", "aten.rand_like.default")
def rand(c: Context, size: Any = None, x: Any = None, dtype: Any = None) -> Expr:
    result = c.out_dtype()
    u = _uniform(c, c.out_shape(), result)
    parts = _HALF.get(result)
    if parts is not None:
        wide = c.dtype(u)
        whole = c.emit(OP.floor(c.emit(OP.multiply(u, c.const(parts, wide)))))
        u = c.emit(OP.multiply(whole, c.const(1 / parts, wide)))
    return c.cast(u, result)


@converts("aten.uniform.default")
def uniform(c: Context, x: Expr, from_: float = 0.0, to: float = 1.0) -> Expr:
    return converted(c, _affine(c, _uniform(c, c.out_shape(), c.out_dtype()), to - from_, from_), c.out_dtype())


@converts("aten.randn.default", "aten.randn_like.default")
def randn(c: Context, size: Any = None, x: Any = None, dtype: Any = None) -> Expr:
    return converted(c, _normal(c, c.out_shape(), c.out_dtype()), c.out_dtype())


@converts("aten.normal_functional.default", "aten.normal.Tensor_Tensor", "aten.normal.Tensor_float", "aten.normal.float_Tensor",
          "aten.normal.float_float")  # fmt: skip
def normal(c: Context, x: Any = None, mean: Any = 0.0, std: Any = 1.0, size: Any = None, dtype: Any = None) -> Expr:
    return converted(c, _affine(c, _normal(c, c.out_shape(), c.out_dtype()), std, mean), c.out_dtype())


@converts("aten.log_normal.default")
def log_normal(c: Context, x: Expr, mean: float = 1.0, std: float = 2.0) -> Expr:
    z = _normal(c, c.out_shape(), c.out_dtype())
    return converted(c, c.emit(OP.exp(_affine(c, z, std, mean))), c.out_dtype())


# ---- whole numbers ---------------------------------------------------------------------------------------------------


@converts("aten.randint.default", "aten.randint.low")
def randint(c: Context, high: Any, size: Any, low: Any = 0, dtype: Any = None) -> Expr:
    return _integers(c, low or 0, high)


@converts("aten.randint_like.default", "aten.randint_like.low_dtype")
def randint_like(c: Context, x: Expr, high: Any, low: Any = 0, dtype: Any = None) -> Expr:
    return _integers(c, low or 0, high)


@converts("aten.random.default", "aten.random.to")
def random(c: Context, x: Expr, to: Any = None) -> Expr:
    return _integers(c, 0, largest_drawn(c.result.dtype) + 1 if to is None else to)


def _integers(c: Context, low: Any, high: Any) -> Expr:
    """low + 64 bits mod (high - low), which is as good as uniform; the sum wraps around."""
    low, high = as_dim(low), as_dim(high)
    shape, result = c.out_shape(), c.out_dtype()
    if isinstance(low, int) and isinstance(high, int):
        if high - low == 1 or 0 in shape:  # one number, or none
            return c.zeros(shape, result, low)
        span = c.const(np.array(high - low, np.uint64), "uint64")
    else:
        span = c.tensor(high - low, "uint64")
    start = c.tensor(low, "int64")

    def build(bits: Any, among: Any, first: Any) -> Any:
        def element(*index: Any) -> Any:
            return tirx.Cast("int64", tirx.truncmod(bits(*index), among())) + first()

        return te.compute(bits.shape, element, name="whole")

    return c.cast(c.emit_te(build, noise(c, "bits", shape, "uint64"), span, start), result)


@converts("aten.randperm.default")
def randperm(c: Context, n: Any, dtype: Any = None) -> Expr:
    """The order of as many keys of 64 bits."""
    shape = c.out_shape()
    keys = noise(c, "bits", shape, "uint64")
    return c.cast(ordered(c, keys, 0, shape[0], largest=False)[1], c.out_dtype())


# ---- coins and choices -----------------------------------------------------------------------------------------------


@converts("aten.bernoulli.default")
def bernoulli(c: Context, x: Expr) -> Expr:
    return _coins(c, x)


@converts("aten.bernoulli.p", "aten.bernoulli.Tensor")
def bernoulli_p(c: Context, x: Expr, p: Any = 0.5) -> Expr:
    if isinstance(p, (int, float)) and p in (0, 1):  # no chance in it
        return c.zeros(c.out_shape(), c.out_dtype(), p)
    return _coins(c, p)


def _coins(c: Context, p: Any) -> Expr:
    """u < p, in float64: always where p is 1, never where it is 0 or NaN."""
    return c.cast(c.emit(OP.less(_uniform(c, c.out_shape()), c.tensor(p, "float64"))), c.out_dtype())


@converts("aten.multinomial.default")
def multinomial(c: Context, x: Expr, num_samples: Any, replacement: bool = False) -> Expr:
    weights, rank = c.cast(x, "float64"), c.rank(x)
    if not replacement:  # the first of as many clocks that ring at these rates
        times = _waiting(c, _uniform(c, c.shape(x)))
        return ordered(c, c.emit(OP.divide(weights, times)), rank - 1, as_dim(num_samples), largest=True)[1]
    sums = c.emit(OP.cumsum(weights, rank - 1))
    classes, shape = c.shape(x)[-1], c.out_shape()
    whole = c.slice(sums, rank - 1, classes - 1, 1)
    aims = c.emit(OP.multiply(_uniform(c, shape), whole))
    below = c.emit(OP.less_equal(c.reshape(sums, [*shape[:-1], 1, classes]), c.reshape(aims, [*shape, 1])))
    return c.emit(OP.sum(c.cast(below, "int64"), [rank], False))


# ---- other distributions ---------------------------------------------------------------------------------------------


def _waiting(c: Context, u: Expr) -> Expr:
    """Exponential with rate 1: never 0, and at most 37."""
    return _map_elements(c, u, lambda v: tirx.max(-tirx.log1p(-v), tirx.FloatImm("float64", 2.0**-54)))


@converts("aten.exponential.default")
def exponential(c: Context, x: Expr, lambd: float = 1.0) -> Expr:
    result = c.out_dtype()
    times = c.emit(OP.divide(_waiting(c, _uniform(c, c.out_shape())), c.const(lambd, "float64")))
    smallest = c.const(2.0**-24 if result == "float16" else 2.0**-126, result)
    return c.emit(OP.maximum(c.cast(times, result), smallest))


@converts("aten.geometric.default")
def geometric(c: Context, x: Expr, p: float) -> Expr:
    """How many tries until the first success, which has the chance p."""
    factor = 1 / math.log1p(-p) if p < 1 else 0.0
    number = _map_elements(c, _uniform(c, c.out_shape()), lambda v: tirx.log1p(-v) * tirx.FloatImm("float64", factor))
    return c.cast(c.emit(OP.maximum(c.emit(OP.ceil(number)), c.const(1.0, "float64"))), c.out_dtype())


@converts("aten.cauchy.default")
def cauchy(c: Context, x: Expr, median: float = 0.0, sigma: float = 1.0) -> Expr:
    angles = c.emit(OP.multiply(_affine(c, _uniform(c, c.out_shape()), 1.0, -0.5), c.const(math.pi, "float64")))
    return c.cast(_affine(c, c.emit(OP.tan(angles)), sigma, median), c.out_dtype())


# ---- layers in training ----------------------------------------------------------------------------------------------


@converts("aten.rrelu_with_noise_functional.default")
def rrelu(c: Context, x: Expr, noise: Expr, lower: float = 0.125, upper: float = 1 / 3, training: bool = False) -> list[Any]:  # fmt: skip
    """Outside of training the slope is the middle of its range."""
    dtype = c.dtype(x)
    positive = c.emit(OP.greater(x, c.const(0.0, dtype)))
    if not training:
        return [c.where(positive, x, c.emit(OP.multiply(x, c.const((lower + upper) / 2, dtype)))), noise]
    drawn = c.cast(_affine(c, _uniform(c, c.shape(x), dtype), upper - lower, lower), dtype)
    slopes = c.where(c.emit(OP.less_equal(x, c.const(0.0, dtype))), drawn, c.const(1.0, dtype))
    return [c.emit(OP.multiply(x, slopes)), slopes]


@converts("aten.native_dropout.default")
def native_dropout(c: Context, input: Expr, p: float, train: Any = None) -> list[Expr]:
    if train is False or p == 0:
        return [input, c.zeros(c.out_shape(1), "bool", True)]
    if p == 1:
        return [c.emit(OP.multiply(input, c.const(0.0, c.dtype(input)))), c.zeros(c.out_shape(1), "bool", False)]
    kept = _keep_mask(c, c.shape(input), p)
    return [thinned(c, input, kept, p), kept]


def _keep_mask(c: Context, shape: Sequence[Any], p: float) -> Expr:
    return c.emit(OP.greater_equal(_uniform(c, shape, "float32"), c.const(p, "float32")))


def thinned(c: Context, x: Expr, kept: Expr | None, p: float) -> Expr:
    """x * kept / (1 - p): dropout. `kept` is drawn if it is None."""
    if kept is None:
        kept = _keep_mask(c, c.shape(x), p)
    dtype = c.dtype(x)
    wide = _draw_dtype(dtype)
    y = c.emit(OP.multiply(c.cast(x, wide), c.cast(kept, wide)))
    return c.cast(c.emit(OP.multiply(y, c.const(1 / (1 - p) if p < 1 else 0.0, wide))), dtype)
