"""Distances between rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from .._context import Context, Expr
from .._registry import NotConvertible, converts

OP = relax.op


def _distances(c: Context, a: Expr, b: Expr, p: float) -> Expr:
    """The p-norm of the difference of each row of a [..., P, M] from each of b [..., R, M]: [..., P, R]."""
    dtype = c.dtype(a)
    if dtype not in ("float32", "float64"):
        raise NotConvertible(f"distances in {dtype}")
    shape = [*c.shape(a)[:-1], c.shape(b)[-2]]

    def build(x: Any, y: Any, extents: Any) -> Any:
        k = te.reduce_axis((0, x.shape[-1]), name="k")

        def element(*index: Any) -> Any:
            *lead, i, j = index
            gap = tirx.abs(x(*lead, i, k) - y(*lead, j, k))
            if math.isinf(p):
                return te.max(gap, axis=k)
            if p == 0:
                return te.sum(tirx.Cast(dtype, gap != tirx.FloatImm(dtype, 0.0)), axis=k)
            powers = gap if p == 1 else gap * gap if p == 2 else tirx.pow(gap, tirx.FloatImm(dtype, p))
            return te.sum(powers, axis=k)

        return te.compute(tuple(extents), element, name="distance")

    total = c.emit_te(build, a, b, shape)
    if p in (0, 1) or math.isinf(p):
        return total
    return c.emit(OP.sqrt(total) if p == 2 else OP.power(total, c.const(1 / p, dtype)))


@converts("aten._cdist_forward.default")
def cdist(c: Context, x1: Expr, x2: Expr, p: float, compute_mode: Any = None) -> Expr:
    """Whatever the mode, the differences themselves are summed up."""
    lead = c.out_shape()[:-2]
    a, b = (c.broadcast(x, [*lead, *c.shape(x)[-2:]]) for x in (x1, x2))
    return _distances(c, a, b, p)


@converts("aten._pdist_forward.default")
def pdist(c: Context, x: Expr, p: float = 2.0) -> Expr:
    """Of each pair of rows i < j, in order."""
    rows = c.static_shape_of(x, [0])[0]
    first, second = np.triu_indices(rows, 1)
    whole = c.reshape(_distances(c, x, x, p), [rows * rows])
    return c.take(whole, c.const(first * rows + second, "int64"), 0)
