"""Activation functions."""

from __future__ import annotations

from typing import Any

from tvm import relax

from .._context import Context, Expr
from .._dtypes import tvm_dtype
from .._registry import converts
from .elementwise import unary

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
    return unary(c, x, lambda v: _elu(c, v, float(alpha), float(scale), float(input_scale)))


def _elu(c: Context, x: Expr, alpha: float, scale: float, input_scale: float) -> Expr:
    dtype = c.dtype(x)
    scaled = x if input_scale == 1 else c.emit(OP.multiply(x, c.const(input_scale, dtype)))
    below = c.emit(OP.minimum(scaled, c.const(0.0, dtype)))  # so that exp cannot overflow where it is not taken
    negative = c.emit(OP.subtract(c.emit(OP.exp(below)), c.const(1.0, dtype)))
    negative = c.emit(OP.multiply(negative, c.const(alpha * scale, dtype)))
    positive = x if scale == 1 else c.emit(OP.multiply(x, c.const(scale, dtype)))
    return OP.where(c.emit(OP.greater(x, c.const(0.0, dtype))), positive, negative)


@converts("aten.selu.default")
def selu(c: Context, x: Expr) -> Expr:
    return unary(c, x, lambda v: _elu(c, v, 1.6732632423543772, 1.0507009873554805, 1.0))


@converts("aten.celu.default")
def celu(c: Context, x: Expr, alpha: Any = 1.0) -> Expr:
    return unary(c, x, lambda v: _elu(c, v, float(alpha), 1.0, 1.0 / float(alpha)))


@converts("aten.softplus.default")
def softplus(c: Context, x: Expr, beta: Any = 1, threshold: Any = 20) -> Expr:
    return unary(c, x, lambda v: _softplus(c, v, float(beta), float(threshold)))


def _softplus(c: Context, x: Expr, beta: float, threshold: float) -> Expr:
    # log(1 + e^bx) / b = (max(bx, 0) + log(1 + e^-|bx|)) / b, which cannot overflow.
    dtype = c.dtype(x)
    bx = x if beta == 1 else c.emit(OP.multiply(x, c.const(beta, dtype)))
    tail = c.emit(OP.exp(c.emit(OP.negative(c.emit(OP.abs(bx))))))
    tail = c.emit(OP.log(c.emit(OP.add(tail, c.const(1.0, dtype)))))
    total = c.emit(OP.add(c.emit(OP.maximum(bx, c.const(0.0, dtype))), tail))
    total = total if beta == 1 else c.emit(OP.multiply(total, c.const(1 / beta, dtype)))
    return OP.where(c.emit(OP.greater(bx, c.const(threshold, dtype))), x, total)


@converts("aten.mish.default")
def mish(c: Context, x: Expr) -> Expr:
    return unary(c, x, lambda v: OP.multiply(v, c.emit(OP.tanh(c.emit(_softplus(c, v, 1.0, 20.0))))))


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
