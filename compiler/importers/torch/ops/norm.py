"""Normalisations. Each stays whole; absent scales and shifts become ones and zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from .._context import Context, Expr
from .._registry import NotConvertible, converts

OP = relax.op


def _or_fill(c: Context, given: Expr | None, shape: Sequence[int], value: float, dtype: str) -> Expr:
    return c.cast(given, dtype) if given is not None else c.const(np.full(list(shape), value), dtype)


def _working(dtype: str) -> str:
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def normalised(c: Context, x: Expr, shape: Sequence[Any], weight: Any, bias: Any, eps: float) -> Expr:
    result, dtype = c.dtype(x), _working(c.dtype(x))
    if not all(isinstance(size, int) for size in shape):
        raise NotConvertible("a dynamic normalised shape")
    gamma, beta = _or_fill(c, weight, shape, 1.0, dtype), _or_fill(c, bias, shape, 0.0, dtype)
    axes = list(range(-len(shape), 0))
    if dtype == "float64" or eps < 0:  # TVM's operator takes float32 and float16
        return c.emit(OP.add(c.emit(OP.multiply(_standardised(c, x, axes, eps), gamma)), beta))
    return c.cast(c.emit(OP.nn.layer_norm(c.cast(x, dtype), gamma, beta, axes, eps)), result)


def _standardised(c: Context, x: Expr, axes: list[int], eps: float) -> Expr:
    """(x - mean) / sqrt(variance + eps) over the axes."""
    off = c.emit(OP.subtract(x, c.emit(OP.mean(x, axes, True))))
    variance = c.emit(OP.mean(c.emit(OP.multiply(off, off)), axes, True))
    root = c.emit(OP.sqrt(c.emit(OP.add(variance, c.const(eps, c.dtype(x))))))
    return c.emit(OP.divide(off, root))


@converts("aten.layer_norm.default")
def layer_norm(
    c: Context, input: Expr, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Expr:
    return normalised(c, input, normalized_shape, weight, bias, eps)


@converts("aten.native_layer_norm.default")
def native_layer_norm(c: Context, input: Expr, normalized_shape: Any, weight: Any, bias: Any, eps: float) -> list[Any]:
    y = normalised(c, input, normalized_shape, weight, bias, eps)
    axes = list(range(c.rank(input) - len(normalized_shape), c.rank(input)))
    return [y, *_moments(c, c.cast(input, _working(c.dtype(input))), axes, eps)]


def _moments(c: Context, x: Expr, axes: list[int], eps: float) -> list[Any]:
    """The mean and 1 / sqrt(variance + eps) over the axes, as results 1 and 2; None where nothing reads them."""
    if not c.used(1) and not c.used(2):
        return [None, None]
    center = c.emit(OP.mean(x, axes, True))
    off = c.emit(OP.subtract(x, center))
    variance = c.emit(OP.mean(c.emit(OP.multiply(off, off)), axes, True))
    root = c.emit(OP.sqrt(c.emit(OP.add(variance, c.const(eps, c.dtype(x))))))
    scale = c.emit(OP.divide(c.const(1.0, c.dtype(x)), root))
    return [c.cast(c.reshape(v, c.out_shape(i)), c.out_dtype(i)) for i, v in ((1, center), (2, scale))]


@converts("aten.rms_norm.default")
def rms_norm(c: Context, input: Expr, normalized_shape: Any, weight: Any = None, eps: Any = None) -> Expr:
    """x / sqrt(mean(x^2) + eps) * weight; without eps, that of x's dtype."""
    result, dtype = c.dtype(input), _working(c.dtype(input))
    epsilon = float(np.finfo(np.dtype(dtype)).eps) if eps is None else float(eps)
    gamma = _or_fill(c, weight, normalized_shape, 1.0, dtype)
    axes = list(range(-len(normalized_shape), 0))
    return c.cast(c.emit(OP.nn.rms_norm(c.cast(input, dtype), gamma, axes, epsilon)), result)


@converts("aten._fused_rms_norm.default")
def fused_rms_norm(c: Context, input: Expr, normalized_shape: Any, weight: Any = None, eps: Any = None) -> list[Any]:
    return [rms_norm(c, input, normalized_shape, weight, eps), None]


def _group_norm(c: Context, x: Expr, groups: int, weight: Any, bias: Any, eps: float) -> Expr:
    result, dtype, rank = c.dtype(x), _working(c.dtype(x)), c.rank(x)
    channels = c.shape(x)[1]
    if not isinstance(channels, int):
        raise NotConvertible("a dynamic number of channels")
    gamma, beta = _or_fill(c, weight, [channels], 1.0, dtype), _or_fill(c, bias, [channels], 0.0, dtype)
    x = c.cast(x, dtype)
    if rank == 2:  # no axes to normalise over but the channels of a group
        shape = c.shape(x)
        y = _group_norm_of(c, c.reshape(x, [*shape, 1]), gamma, beta, groups, eps)
        return c.cast(c.reshape(y, shape), result)
    return c.cast(_group_norm_of(c, x, gamma, beta, groups, eps), result)


def _group_norm_of(c: Context, x: Expr, gamma: Expr, beta: Expr, groups: int, eps: float) -> Expr:
    if c.dtype(x) == "float64" or eps < 0:
        shape, rank = c.shape(x), c.rank(x)
        split = c.reshape(x, [shape[0], groups, shape[1] // groups, *shape[2:]])
        y = c.reshape(_standardised(c, split, list(range(2, rank + 1)), eps), shape)
        wide = [1, shape[1], *[1] * (rank - 2)]
        return c.emit(OP.add(c.emit(OP.multiply(y, c.reshape(gamma, wide))), c.reshape(beta, wide)))
    return c.emit(OP.nn.group_norm(x, gamma, beta, groups, 1, list(range(2, c.rank(x))), eps))


@converts("aten.group_norm.default")
def group_norm(
    c: Context, input: Expr, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Expr:
    return _group_norm(c, input, num_groups, weight, bias, eps)


@converts("aten.native_group_norm.default")
def native_group_norm(
    c: Context, input: Expr, weight: Any, bias: Any, N: Any, C: Any, HxW: Any, group: int, eps: float
) -> list[Any]:
    y = _group_norm(c, input, group, weight, bias, eps)
    shape = c.shape(input)
    split = c.reshape(c.cast(input, _working(c.dtype(input))), [shape[0], group, shape[1] // group, *shape[2:]])
    return [y, *_moments(c, split, list(range(2, c.rank(split))), eps)]


@converts("aten.instance_norm.default")
def instance_norm(c: Context, input: Expr, weight: Any, bias: Any, running_mean: Any, running_var: Any, use_input_stats: bool,
                  momentum: float, eps: float) -> Expr:  # fmt: skip
    if not use_input_stats:
        return _batch_norm(c, input, weight, bias, running_mean, running_var, eps)
    channels = c.shape(input)[1]
    return _group_norm(c, input, channels, weight, bias, eps)


def _batch_norm(c: Context, x: Expr, weight: Any, bias: Any, mean: Expr, var: Expr, eps: float) -> Expr:
    result, dtype = c.dtype(x), _working(c.dtype(x))
    shape = c.static_shape(mean)
    gamma, beta = _or_fill(c, weight, shape, 1.0, dtype), _or_fill(c, bias, shape, 0.0, dtype)
    call = OP.nn.batch_norm(
        c.cast(x, dtype), gamma, beta, c.cast(mean, dtype), c.cast(var, dtype), axis=1, epsilon=eps, training=False
    )
    return c.cast(c.emit(relax.TupleGetItem(c.emit(call), 0)), result)


@converts("aten._native_batch_norm_legit_no_training.default")
def batch_norm(c: Context, input: Expr, weight: Any, bias: Any, running_mean: Expr, running_var: Expr, momentum: float,
               eps: float) -> list[Any]:  # fmt: skip
    nothing = [c.zeros([0], c.out_dtype(i)) if c.used(i) else None for i in (1, 2)]  # statistics that were not measured
    return [_batch_norm(c, input, weight, bias, running_mean, running_var, eps), *nothing]
