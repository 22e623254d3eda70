"""Activation functions."""

from __future__ import annotations

import functools
from typing import Any

from tvm import relax, tirx

from ... import _elementary as elementary
from .._context import Context, Expr
from .._dtypes import tvm_dtype
from .._registry import converts
from .elementwise import computed, unary

OP = relax.op


@converts("aten.relu.default")
def relu(c: Context, x: Expr) -> Expr:
    return c.emit(OP.nn.relu(x))


@converts("aten.relu6.default")
def relu6(c: Context, x: Expr) -> Expr:
    return c.emit(OP.clip(x, 0.0, 6.0)) if "float" in c.dtype(x) else c.emit(OP.nn.relu6(x))


@converts("aten.hardtanh.default")
def hardtanh(c: Context, x: Expr, min_val: Any = -1, max_val: Any = 1) -> Expr:
    return unary(c, x, lambda v: OP.clip(v, float(min_val), float(max_val)))


@converts("aten.gelu.default")
def gelu(c: Context, x: Expr, approximate: str = "none") -> Expr:
    return unary(c, x, OP.nn.gelu_tanh if approximate == "tanh" else OP.nn.gelu)


@converts("aten.silu.default")
def silu(c: Context, x: Expr) -> Expr:
    return unary(c, x, OP.nn.silu)


@converts("aten.hardsigmoid.default")
def hardsigmoid(c: Context, x: Expr) -> Expr:
    return unary(c, x, lambda v: _hardsigmoid(c, v))


def _hardsigmoid(c: Context, x: Expr) -> Expr:
    dtype = c.dtype(x)
    clipped = c.emit(OP.clip(c.emit(OP.add(x, c.const(3.0, dtype))), 0.0, 6.0))
    return OP.multiply(clipped, c.const(1 / 6, dtype))


@converts("aten.hardswish.default")
def hardswish(c: Context, x: Expr) -> Expr:
    return unary(c, x, lambda v: OP.multiply(v, c.emit(_hardsigmoid(c, v))))


@converts("aten.leaky_relu.default")
def leaky_relu(c: Context, x: Expr, negative_slope: Any = 0.01) -> Expr:
    return unary(c, x, lambda v: OP.nn.leakyrelu(v, float(negative_slope)))


@converts("aten.elu.default")
def elu(c: Context, x: Expr, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Expr:
    return computed(c, x, lambda v: elementary.elu(v, float(alpha), float(scale), float(input_scale)))


@converts("aten.selu.default")
def selu(c: Context, x: Expr) -> Expr:
    return computed(c, x, lambda v: elementary.elu(v, 1.6732632423543772, 1.0507009873554805))


@converts("aten.celu.default")
def celu(c: Context, x: Expr, alpha: Any = 1.0) -> Expr:
    return computed(c, x, lambda v: elementary.elu(v, float(alpha), 1.0, 1.0 / float(alpha)))


@converts("aten.softplus.default")
def softplus(c: Context, x: Expr, beta: Any = 1, threshold: Any = 20) -> Expr:
    def element(v: Any) -> Any:
        number = functools.partial(tirx.FloatImm, v.ty.dtype)
        scaled = v if beta == 1 else v * number(float(beta))
        total = elementary.softplus(scaled)
        total = total if beta == 1 else total / number(float(beta))
        return tirx.Select(scaled > number(float(threshold)), v, total)

    return computed(c, x, element)


@converts("aten.mish.default")
def mish(c: Context, x: Expr) -> Expr:
    return computed(c, x, elementary.mish)


@converts("aten.log_sigmoid.default")
def log_sigmoid(c: Context, x: Expr) -> Expr:
    return computed(c, x, elementary.log_sigmoid)


@converts("aten.softshrink.default")
def softshrink(c: Context, x: Expr, lambd: Any = 0.5) -> Expr:
    """Between -lambd and lambd 0, which has no sign, and NaN stays; torch's decomposition multiplies by 0."""

    def element(v: Any) -> Any:
        zero, limit = (tirx.FloatImm(str(v.ty.dtype), float(k)) for k in (0.0, lambd))
        inside = tirx.Select(v == v, zero, v)
        return tirx.Select(v > limit, v - limit, tirx.Select(v < zero - limit, v + limit, inside))

    return computed(c, x, element)


@converts("aten.prelu.default", "aten._prelu_kernel.default")
def prelu(c: Context, x: Expr, weight: Expr) -> Expr:
    rank = c.rank(x)
    if c.rank(weight) == 1 and rank > 1:
        count = c.shape(weight)[0]
        weight = c.reshape(weight, [1, count, *[1] * (rank - 2)])
    elif c.rank(weight) == 1 and rank <= 1 and c.shape(weight) == [1]:
        weight = c.reshape(weight, [1] * rank)
    scaled = c.emit(OP.multiply(x, weight))
    return c.where(c.emit(OP.greater(x, c.const(0.0, c.dtype(x)))), x, scaled)


@converts("aten.glu.default")
def glu(c: Context, x: Expr, dim: int = -1) -> Expr:
    axis, half = dim % c.rank(x), c.out_shape()[dim % c.rank(x)]
    c.require_equal(c.shape(x)[axis], half * 2)
    gate = c.emit(OP.sigmoid(c.slice(x, axis, half, half)))
    return c.emit(OP.multiply(c.slice(x, axis, 0, half), gate))


def _softmax(c: Context, x: Expr, dim: int, function: Any) -> Expr:
    result = c.out_dtype()
    compute = "float32" if result in ("float16", "bfloat16") else result
    if c.rank(x) == 0:
        x = c.reshape(x, [1])
        return c.reshape(c.cast(c.emit(function(c.cast(x, compute), axis=0)), result), [])
    return c.cast(c.emit(function(c.cast(x, compute), axis=dim % c.rank(x))), result)


@converts("aten.softmax.int")
def softmax(c: Context, x: Expr, dim: int, dtype: Any = None) -> Expr:
    return _softmax(c, x if dtype is None else c.cast(x, tvm_dtype(dtype)), dim, OP.nn.softmax)


@converts("aten.log_softmax.int")
def log_softmax(c: Context, x: Expr, dim: int, dtype: Any = None) -> Expr:
    return _softmax(c, x if dtype is None else c.cast(x, tvm_dtype(dtype)), dim, OP.nn.log_softmax)


@converts("aten._softmax.default")
def softmax_core(c: Context, x: Expr, dim: int, half_to_float: bool) -> Expr:
    return _softmax(c, x, dim, OP.nn.softmax)


@converts("aten._log_softmax.default")
def log_softmax_core(c: Context, x: Expr, dim: int, half_to_float: bool) -> Expr:
    return _softmax(c, x, dim, OP.nn.log_softmax)


@converts("aten.dropout.default")
def dropout(c: Context, input: Expr, p: float, train: bool) -> Expr:
    from .._registry import NotConvertible

    if train and p > 0:
        raise NotConvertible("dropout in training mode, which is random: call eval() before the export")
    return input


@converts("aten.alpha_dropout.default", "aten.feature_dropout.default")
def other_dropout(c: Context, input: Expr, p: float, train: bool) -> Expr:
    return dropout(c, input, p, train)
