"""Histograms: how many elements, or how much weight, lie in the boxes of a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from .._context import Context, Expr
from .._dtypes import is_float
from .._registry import NotConvertible, converts

OP = relax.op


def _flat(c: Context, x: Expr) -> Expr:
    total: Any = 1
    for size in c.shape(x):
        total = total * size
    return c.reshape(x, [total])


def _limits(c: Context, x: Expr, range: Any, axis: int) -> tuple[Expr, Expr]:
    """The least and the largest value that count, of rank 0; those of the data where no range is given, half a unit apart from them if
    all are equal."""
    dtype = c.dtype(x)
    if range:
        low, high = float(range[2 * axis]), float(range[2 * axis + 1])
        low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
        return c.const(low, dtype), c.const(high, dtype)
    low_, high_ = c.emit(OP.min(x, [0], False)), c.emit(OP.max(x, [0], False))
    half = c.where(c.emit(OP.equal(low_, high_)), c.const(0.5, dtype), c.const(0.0, dtype))
    return c.emit(OP.subtract(low_, half)), c.emit(OP.add(high_, half))


def _edges(c: Context, x: Expr, bins: int, range: Any, axis: int) -> Expr:
    """[bins + 1] limits at equal distances, counted from the nearer end as torch.linspace has it."""
    dtype = c.dtype(x)
    low, high = _limits(c, x, range, axis)
    step = c.emit(OP.divide(c.emit(OP.subtract(high, low)), c.const(float(bins), dtype)))
    steps = np.arange(bins + 1)
    up = c.emit(OP.add(low, c.emit(OP.multiply(step, c.const(steps, dtype)))))
    down = c.emit(OP.subtract(high, c.emit(OP.multiply(step, c.const(bins - steps, dtype)))))
    return c.where(c.const(steps < (bins + 1) // 2, "bool"), up, down)


def _columns(c: Context, x: Expr) -> list[Expr]:
    """The columns of x [..., D]."""
    rank, count = c.rank(x), c.static_shape_of(x, [c.rank(x) - 1])[0]
    return [_flat(c, c.slice(x, rank - 1, i, 1)) for i in range(count)]


def _histogram(c: Context, columns: Sequence[Expr], edges: Sequence[Expr], weight: Any, density: bool) -> Expr:
    """How much lies in each box; the last box of an axis contains its upper limit."""
    dtype = c.dtype(columns[0])
    bins = [c.static_shape_of(e, [0])[0] - 1 for e in edges]
    where, inside = None, None
    for x, e, count in zip(columns, edges, bins):
        column = c.reshape(x, [*c.shape(x), 1])
        above = c.emit(OP.greater_equal(column, e))  # [N, bins + 1]
        within = c.emit(OP.less_equal(x, c.reshape(c.slice(e, 0, count, 1), [])))
        within = c.emit(OP.logical_and(within, c.reshape(c.slice(above, 1, 0, 1), c.shape(x))))
        at = c.emit(OP.sum(c.emit(OP.astype(c.slice(above, 1, 1, count), "int64")), [1], False))
        at = c.emit(OP.minimum(at, c.const(count - 1, "int64")))
        where = at if where is None else c.emit(OP.add(c.emit(OP.multiply(where, c.const(count, "int64"))), at))
        inside = within if inside is None else c.emit(OP.logical_and(inside, within))
    amount = c.const(1.0, dtype) if weight is None else _flat(c, c.cast(weight, dtype))
    amount = c.where(inside, amount, c.const(0.0, dtype))
    found = c.emit(OP.scatter_elements(c.zeros([math.prod(bins)], dtype), where, amount, 0, "add"))
    found = c.reshape(found, bins)
    if not density:
        return found
    for axis, (e, count) in enumerate(zip(edges, bins)):
        widths = c.emit(OP.subtract(c.slice(e, 0, 1, count), c.slice(e, 0, 0, count)))
        found = c.emit(OP.divide(found, c.reshape(widths, [count, *[1] * (len(bins) - axis - 1)])))
    total = c.emit(OP.sum(amount, None, False))
    return c.emit(OP.divide(found, total))


def _checked(c: Context, x: Expr) -> Expr:
    if not is_float(c.dtype(x)) or c.dtype(x) in ("float16", "bfloat16"):
        raise NotConvertible(f"counts of {c.dtype(x)}")
    return x


@converts("aten.histogram.bin_ct")
def histogram(c: Context, x: Expr, bins: int = 100, range: Any = None, weight: Any = None, density: bool = False) -> list[Expr]:  # fmt: skip
    flat = _flat(c, _checked(c, x))
    edges = _edges(c, flat, bins, range, 0)
    return [_histogram(c, [flat], [edges], weight, density), edges]


@converts("aten.histogram.bins_tensor")
def histogram_edges(c: Context, x: Expr, bins: Expr, weight: Any = None, density: bool = False) -> list[Expr]:
    return [_histogram(c, [_flat(c, _checked(c, x))], [bins], weight, density), bins]


@converts("aten._histogramdd_bin_edges.default")
def histogramdd_edges(c: Context, x: Expr, bins: list[int], range: Any = None, weight: Any = None, density: bool = False) -> list[Expr]:  # fmt: skip
    columns = _columns(c, _checked(c, x))
    return [_edges(c, column, count, range, i) for i, (column, count) in enumerate(zip(columns, bins))]


@converts("aten._histogramdd_from_bin_cts.default")
def histogramdd(c: Context, x: Expr, bins: list[int], range: Any = None, weight: Any = None, density: bool = False) -> Expr:  # fmt: skip
    return _histogram(c, _columns(c, x), histogramdd_edges(c, x, bins, range), weight, density)


@converts("aten._histogramdd_from_bin_tensors.default")
def histogramdd_tensors(c: Context, x: Expr, bins: list[Expr], weight: Any = None, density: bool = False) -> Expr:
    return _histogram(c, _columns(c, _checked(c, x)), bins, weight, density)
