"""Pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from .._dims import Dim
from .._exprs import constant, dims_of, dtype_of, shape_expr
from .._node import Node
from .._registry import op
from .._values import is_float
from ._te import elementwise, imm, is_nan, lowest
from .nn import window_attrs, window_pads, window_room
from .reduce import summed


def _window(n: Node) -> tuple[list[int], list[int], list[int], list[Dim], list[Dim], list[Dim]]:
    """(kernel, strides, dilations, before, after, output extents) of a pooling node."""
    spatial = n.shape(0)[2:]
    kernel = n.ints_attr("kernel_shape")
    strides, dilations = window_attrs(n, len(spatial), kernel)
    before, after = window_pads(n, spatial, kernel, strides, dilations)
    ceil = n.flag("ceil_mode")
    out: list[Dim] = []
    for i, d in enumerate(spatial):
        reach = (kernel[i] - 1) * dilations[i] + 1
        if any(isinstance(p, int) and p >= reach for p in (before[i], after[i])):
            raise n.broken(f"pads by {before[i]} and {after[i]}, so that a window of {reach} would have nothing in it")
        room = window_room(n, d, before[i], after[i], reach)
        if not ceil:
            out.append(n.math.add(n.math.floordiv(room, strides[i]), 1))
            continue
        count = n.math.add(n.math.ceildiv(room, strides[i]), 1)
        # A window that would begin behind the input and its padding in front is left out.
        begun = n.math.ceildiv(n.math.add(d, before[i]), strides[i])
        out.append(count if n.math.compare("<=", count, begun) else n.math.min(count, begun))
    return kernel, strides, dilations, before, after, out


def _as_relax(
    n: Node, before: list[Dim], after: list[Dim], out: list[Dim], kernel: list[int], strides: list[int], dil: list[int]
) -> bool | None:
    """Whether Relax's pooling, over one to three axes, rounds its extents up to say exactly this; None where it cannot."""
    pads = [p for p in (*before, *after) if isinstance(p, int)]
    if dtype_of(n.x(0)) != "float32" or len(kernel) > 3 or len(pads) != 2 * len(kernel):
        return None
    if not all(0 <= p < k for p, k in zip(pads, (*kernel, *kernel), strict=True)):
        return None
    rooms = [
        n.math.sub(n.math.add(n.math.add(d, before[i]), after[i]), (kernel[i] - 1) * dil[i] + 1)
        for i, d in enumerate(n.shape(0)[2:])
    ]
    for ceil, divide in ((False, n.math.floordiv), (True, n.math.ceildiv)):
        counts = (n.math.add(divide(room, stride), 1) for room, stride in zip(rooms, strides, strict=True))
        if all(n.math.same(a, b) for a, b in zip(out, counts, strict=True)):
            return ceil
    return None


@op("MaxPool", since=[1, 8, 10, 11, 12, 22])
def max_pool(n: Node) -> Any:
    if n.dtype(0) in ("uint8", "int8") and n.rank(0) == 4 and len([o for o in n.proto.output if o]) == 1:
        # As floats, the form that the kernel on bytes is made from.
        one, zero = constant(np.ones((), np.float32)), constant(np.zeros((), n.dtype(0)))
        x = n.emit(relax.op.dequantize(n.x(0), one, zero, axis=-1, out_dtype="float32"))
        y = n.expr_of(max_pool(n.with_arguments(x)))
        return relax.op.quantize(y, one, zero, axis=-1, out_dtype=n.dtype(0))
    kernel, strides, dilations, before, after, out = _window(n)
    indices = len(n.proto.output) > 1 and n.proto.output[1]
    ceil = _as_relax(n, before, after, out, kernel, strides, dilations)
    if not indices and ceil is not None:
        pool = (relax.op.nn.max_pool1d, relax.op.nn.max_pool2d, relax.op.nn.max_pool3d)[len(kernel) - 1]
        return pool(n.x(0), kernel, strides, [*before, *after], dilations, ceil)
    x = n.x(0)
    dims = dims_of(x)
    dtype = dtype_of(x)
    shape = [dims[0], dims[1], *out]
    column = n.flag("storage_order")

    def place(t: Any, at: tuple[Any, ...], ks: list[Any], first: Any) -> tuple[Any, list[Any]]:
        where = [
            i * s + k * d - first[a] for a, (i, s, k, d) in enumerate(zip(at, strides, ks, dilations, strict=True))
        ]
        inside = [c for a, p in enumerate(where) for c in (p >= 0, p < t.shape[2 + a])]
        return tirx.all(*inside), where

    def body(t: Any, extents: Any, first: Any) -> Any:
        ks = [te.reduce_axis((0, k), name=f"k{i}") for i, k in enumerate(kernel)]
        reducer = te.comm_reducer(
            lambda a, b: tirx.Select(tirx.any(a > b, is_nan(a)) if is_float(dtype) else a > b, a, b),
            lambda _: lowest(dtype),
            name="max",
        )

        def element(b: Any, c: Any, *at: Any) -> Any:
            inside, where = place(t, at, ks, first)
            return reducer(tirx.if_then_else(inside, t(b, c, *where), lowest(dtype)), axis=ks)

        return te.compute(extents, element, name="max_pool")

    def positions(t: Any, top: Any, extents: Any, first: Any) -> Any:
        # The smallest flat position in the tensor that holds the window's maximum, rows before columns: of equal ones the first.
        ks = [te.reduce_axis((0, k), name=f"k{i}") for i, k in enumerate(kernel)]

        def element(b: Any, c: Any, *at: Any) -> Any:
            inside, where = place(t, at, ks, first)
            flat: Any = imm(0, "int64")
            for i, extent in zip([b, c, *where], t.shape):
                flat = flat * extent + i
            value, most = tirx.if_then_else(inside, t(b, c, *where), lowest(dtype)), top(b, c, *at)
            same = tirx.any(value == most, tirx.all(is_nan(value), is_nan(most))) if is_float(dtype) else value == most
            return te.min(tirx.if_then_else(tirx.all(inside, same), flat, tirx.max_value("int64")), axis=ks)

        return te.compute(extents, element, name="max_pool_positions")

    def by_column(found: Any, t: Any) -> Any:
        """The same positions where the first spatial axis counts quickest."""

        def element(*at: Any) -> Any:
            rest, flat = found(*at), imm(0, "int64")
            for extent in t.shape[:1:-1]:  # the last axis first, as it is cut off
                flat, rest = flat * extent + tirx.floormod(rest, extent), tirx.floordiv(rest, extent)
            for extent in t.shape[2:]:
                rest = rest * extent
            return rest + flat

        return te.compute(found.shape, element, name="by_column")

    y = n.te(body, x, shape_expr(shape), shape_expr(before))
    if not indices:
        return y
    found = n.te(positions, x, y, shape_expr(shape), shape_expr(before), name="max_pool_positions")
    return [y, n.te(by_column, found, x, name="by_column") if column else found]


@op("AveragePool", since=[1, 7, 10, 11, 19, 22])
def average_pool(n: Node) -> Any:
    n.float_only()
    kernel, strides, dilations, before, after, out = _window(n)
    include = n.flag("count_include_pad")
    ceil = _as_relax(n, before, after, out, kernel, strides, dilations)
    if ceil is not None and all(d == 1 for d in dilations):
        pool = (relax.op.nn.avg_pool1d, relax.op.nn.avg_pool2d, relax.op.nn.avg_pool3d)[len(kernel) - 1]
        return pool(n.x(0), kernel, strides, [*before, *after], dilations, ceil, include)
    x = n.x(0)
    dtype = dtype_of(x)
    wide = "float64" if dtype == "float64" else "float32"
    dims = dims_of(x)

    def body(t: Any, extents: Any, first: Any, last: Any) -> Any:
        ks = [te.reduce_axis((0, k), name=f"k{i}") for i, k in enumerate(kernel)]

        def where(at: tuple[Any, ...]) -> list[Any]:
            return [
                i * s + k * d - first[a] for a, (i, s, k, d) in enumerate(zip(at, strides, ks, dilations, strict=True))
            ]

        def total(b: Any, c: Any, *at: Any) -> Any:
            p = where(at)
            inside = tirx.all(*[c for a, q in enumerate(p) for c in (q >= 0, q < t.shape[2 + a])])
            return te.sum(tirx.if_then_else(inside, tirx.Cast(wide, t(b, c, *p)), imm(0, wide)), axis=ks)

        sums = te.compute(extents, total, name="window_sum")
        ms = [te.reduce_axis((0, k), name=f"m{i}") for i, k in enumerate(kernel)]

        def count(*at: Any) -> Any:
            counted = []
            for a, (i, s, k, d) in enumerate(zip(at, strides, ms, dilations, strict=True)):
                q = i * s + k * d - first[a]
                low, high = (-first[a], t.shape[2 + a] + last[a]) if include else (imm(0, "int64"), t.shape[2 + a])
                counted += [q >= low, q < high]
            return te.sum(tirx.if_then_else(tirx.all(*counted), imm(1, wide), imm(0, wide)), axis=ms)

        counts = te.compute(extents[2:], count, name="window_count")
        return te.compute(
            extents, lambda b, c, *at: tirx.Cast(dtype, sums(b, c, *at) / counts(*at)), name="average_pool"
        )

    return n.te(body, x, shape_expr([dims[0], dims[1], *out]), shape_expr(before), shape_expr(after))


@op("LpPool", since=[2, 11, 18, 22])
def lp_pool(n: Node) -> Any:
    n.float_only()
    kernel, strides, dilations, before, _, out = _window(n)
    p = _exponent(n)
    x = n.x(0)
    dtype = dtype_of(x)
    wide = "float64" if dtype == "float64" else "float32"
    dims = dims_of(x)

    def body(t: Any, extents: Any, first: Any) -> Any:
        ks = [te.reduce_axis((0, k), name=f"k{i}") for i, k in enumerate(kernel)]

        def total(b: Any, c: Any, *at: Any) -> Any:
            q = [
                i * s + k * d - first[a] for a, (i, s, k, d) in enumerate(zip(at, strides, ks, dilations, strict=True))
            ]
            inside = tirx.all(*[c for a, v in enumerate(q) for c in (v >= 0, v < t.shape[2 + a])])
            v = tirx.if_then_else(inside, tirx.abs(tirx.Cast(wide, t(b, c, *q))), imm(0, wide))
            return te.sum(_power(v, p, wide), axis=ks)

        sums = te.compute(extents, total, name="window_sum")
        return te.compute(extents, lambda *i: tirx.Cast(dtype, _root(sums(*i), p, wide)), name="lp_pool")

    return n.te(body, x, shape_expr([dims[0], dims[1], *out]), shape_expr(before))


def _exponent(n: Node) -> int:
    p = n.int_attr("p", 2)
    if p < 1:
        raise n.broken(f"has p = {p}, expected 1 or more")
    return p


def _power(v: Any, p: int, dtype: str) -> Any:
    return v if p == 1 else v * v if p == 2 else tirx.pow(v, imm(p, dtype))


def _root(v: Any, p: int, dtype: str) -> Any:
    return v if p == 1 else tirx.sqrt(v) if p == 2 else tirx.pow(v, imm(1.0 / p, dtype))


@op("GlobalAveragePool", since=[1, 22])
def global_average_pool(n: Node) -> Any:
    n.float_only()
    if n.rank(0) == 4 and n.dtype(0) == "float32":
        return relax.op.nn.adaptive_avg_pool2d(n.x(0), (1, 1))
    wide = n.cast(n.x(0), "float32") if n.dtype(0) in ("float16", "bfloat16") else n.x(0)
    return n.cast(n.emit(relax.op.mean(wide, list(range(2, n.rank(0))), True)), n.dtype(0))


@op("GlobalMaxPool", since=[1, 22])
def global_max_pool(n: Node) -> Any:
    n.float_only()
    return relax.op.max(n.x(0), list(range(2, n.rank(0))), True)


@op("GlobalLpPool", since=[2, 22])
def global_lp_pool(n: Node) -> Any:
    n.float_only()
    p = _exponent(n)
    dtype = n.dtype(0)
    wide = "float64" if dtype == "float64" else "float32"
    powers = elementwise(n, lambda v: _power(tirx.abs(tirx.Cast(wide, v)), p, wide), n.x(0))
    total = summed(n, powers, list(range(2, n.rank(0))), True)
    return elementwise(n, lambda v: tirx.Cast(dtype, _root(v, p, wide)), total)
