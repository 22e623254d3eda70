"""Operators that make elements, or add them around others: constants, ranges, triangles, padding."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from maas_rt._plan import MAX_RANK

from .._dims import Dim
from .._exprs import constant, dims_of, dtype_of, shape_expr
from .._node import Node
from .._registry import op
from .._stored import STORED, storage
from .._values import Value, numpy_dtype
from ._runtime import bind_vector, check_axes, int64, invalid_unless, list_length, pick, vector
from ._te import imm


@op("Constant", since=[1, 9, 11, 12, 13, 19, 21, 23, 24, 25])
def constant_(n: Node) -> Any:
    for name, dtype in (
        ("value_float", np.float32),
        ("value_int", np.int64),
        ("value_floats", np.float32),
        ("value_ints", np.int64),
    ):
        if n.has_attr(name):
            return np.array(n.attr(name), dtype)
    if n.has_attr("value"):
        return n.graph.tensor(n.attr("value"), n.place)
    if n.has_attr("value_string"):
        return np.array(n.attr("value_string"), dtype=object)
    if n.has_attr("value_strings"):
        return np.array(n.attr("value_strings"), dtype=object)
    for a in n.proto.attribute:
        if a.name == "sparse_value":
            return n.graph.sparse(a.sparse_tensor, n.place)
    raise n.broken("carries no value")


@op("ConstantOfShape", since=[9, 20, 21, 23, 24, 25])
def constant_of_shape(n: Node) -> Any:
    value = n.graph.tensor(n.attr("value"), n.place).const if n.has_attr("value") else np.zeros(1, np.float32)
    if value is None or value.size != 1:
        raise n.broken("needs a value of one element")
    dims = n.dims(0, "shape")
    kind = value.dtype.name
    if kind in STORED:
        value = storage(value)
    out = n.emit(relax.op.full(shape_expr(dims), constant(value.reshape(())), str(value.dtype)))
    return Value(kind, tuple(dims), expr=out, origin=n.place)


@op("Range", since=[11, 27])
def range_(n: Node) -> Any:
    dtype = n.dtype(0)
    if not all(n.value(i).known for i in range(3)):
        return _runtime_range(n)
    start, limit, step = (n.value(i).elements.reshape(-1)[0] for i in range(3))
    if not isinstance(step, int | np.integer | float | np.floating):
        raise n.refuse("a step that is an expression of symbols")
    if step == 0 or any(isinstance(v, float | np.floating) and not np.isfinite(v) for v in (start, limit, step)):
        raise n.broken(f"goes from {start} to {limit} in steps of {step}")
    if any(isinstance(v, float | np.floating) and v != int(v) for v in (start, limit, step)):
        return _runtime_range(n)
    step = int(step)
    start, limit = (int(v) if isinstance(v, np.integer | np.floating | float) else v for v in (start, limit))
    span = n.math.sub(limit, start) if step > 0 else n.math.sub(start, limit)
    length = n.math.max(n.math.ceildiv(span, abs(step)), 0)

    def body(dims: Any, first: Any) -> Any:
        return te.compute(dims, lambda i: tirx.Cast(dtype, first[0] + i * step), name="range")

    return n.te(body, shape_expr([length]), shape_expr([start]))


def _runtime_range(n: Node) -> Any:
    dtype = n.dtype(0)
    whole = dtype.startswith(("int", "uint"))
    bounds = [n.reshape(n.x(i), []) if n.rank(i) else n.x(i) for i in range(3)]

    def build(start: Any, limit: Any, step: Any, _: Any) -> list[Any]:
        a, b, s = start(), limit(), step()
        if whole:
            a, b, s = int64(a), int64(b), int64(s)
            size = tirx.max(tirx.Select(s < 0, imm(0, "int64") - s, s), imm(1, "int64"))
            span = tirx.Select(s < 0, a - b, b - a)
            return [invalid_unless(s != 0, tirx.floordiv(tirx.max(span, imm(0, "int64")) + size - 1, size))]
        wide = "float64"
        count = tirx.ceil((tirx.Cast(wide, b) - tirx.Cast(wide, a)) / tirx.Cast(wide, s))
        return [tirx.Cast("int64", tirx.max(count, imm(0, wide)))]

    length = bind_vector(n, build, *bounds, count=1, says="is given steps of 0")

    def body(start: Any, step: Any, dims: Any) -> Any:
        return te.compute(dims, lambda i: start() + tirx.Cast(dtype, i) * step(), name="range")

    return n.te(body, bounds[0], bounds[2], shape_expr(length))


@op("EyeLike", since=[9, 22])
def eye_like(n: Node) -> Any:
    dtype = n.dtype_attr("dtype") if n.has_attr("dtype") else n.dtype(0)
    k = n.int_attr("k", 0)

    def body(dims: Any) -> Any:
        return te.compute(dims, lambda i, j: tirx.Select(j == i + k, imm(1, dtype), imm(0, dtype)), name="eye")

    return n.te(body, shape_expr(n.shape(0)))


@op("Trilu", since=[14])
def trilu(n: Node) -> Any:
    upper = n.flag("upper", 1)
    dtype = n.dtype(0)
    k = n.x(1) if n.has(1) else constant(np.array(0, np.int64))
    if dims_of(k):
        k = n.reshape(k, [])

    def body(t: Any, offset: Any) -> Any:
        def element(*i: Any) -> Any:
            row, column = i[-2] + tirx.Cast("int64", offset()), i[-1]
            keep = column >= row if upper else column <= row
            return tirx.Select(keep, t(*i), imm(0, dtype))

        return te.compute(t.shape, element, name="trilu")

    return n.te(body, n.x(0), k)


@op("Pad", since=[2, 11, 13, 18, 19, 21, 23, 24, 25])
def pad(n: Node) -> Any:
    rank = n.rank(0)
    mode = n.choice("mode", "constant", "edge", "reflect", *(["wrap"] if n.version >= 19 else []))
    dtype = n.dtype(0)
    if n.version < 11:
        pads: list[Dim] = list(n.ints_attr("pads"))
        value: Any = np.array(n.float_attr("value", 0.0), numpy_dtype(dtype))
    else:
        if not n.value(1).known or (n.version >= 18 and n.has(3) and n.value(3).const is None):
            return _runtime_pad(n, mode)
        pads = n.dims(1, "pads")
        value = np.zeros((), numpy_dtype(dtype))
        if n.has(2):
            given = n.value(2)
            value = given.const.reshape(()) if given.const is not None and given.const.size == 1 else None
    axes = n.axes(n.ints(3, "axes"), rank) if n.version >= 18 and n.has(3) else list(range(rank))
    if len(pads) != 2 * len(axes):
        raise n.broken(f"has {len(pads)} pads for {len(axes)} axes")
    before: list[Dim] = [0] * rank
    after: list[Dim] = [0] * rank
    for k, a in enumerate(axes):
        before[a], after[a] = pads[k], pads[k + len(axes)]
    return pad_tensor(n, n.x(0), before, after, mode, value if value is not None else n.reshape(n.x(2), []))


def _runtime_pad(n: Node, mode: str) -> Any:
    """Pad whose widths (or axes) a run computes: the widths in front are read from a tensor, the extents are bound."""
    dims, dtype = n.shape(0), n.dtype(0)
    rank = len(dims)
    count = list_length(n, 1, 2 * MAX_RANK) // 2
    axes_given = n.version >= 18 and n.has(3)
    given = [n.x(1), *([n.x(3)] if axes_given else [])]
    if axes_given:
        check_axes(n, 3, rank)

    def widths(*args: Any) -> tuple[list[Any], list[Any]]:
        pads = args[0]
        before, after = [], []
        for a in range(rank):
            b: Any = imm(0, "int64")
            e: Any = imm(0, "int64")
            for k in range(count):
                axis = pick(args[1], k, count) if axes_given else imm(k, "int64")
                hit = tirx.any(axis == a, axis == a - rank)
                b = tirx.Select(hit, pick(pads, k, 2 * count), b)
                e = tirx.Select(hit, pick(pads, count + k, 2 * count), e)
            before.append(b)
            after.append(e)
        return before, after

    def extents(*args: Any) -> list[Any]:
        before, after = widths(*args)
        return [int64(d) + b + e for d, b, e in zip(args[-1], before, after, strict=True)]

    first = vector(n, lambda *t: widths(*t)[0], *given, dims=dims, name="pad_before")
    out = bind_vector(n, extents, *given, dims=dims, count=rank)
    fill = n.x(2) if n.has(2) else constant(np.zeros((), numpy_dtype(dtype)))
    if dims_of(fill):
        fill = n.reshape(fill, [])

    def body(t: Any, where: Any, value: Any, shape: Any) -> Any:
        def element(*i: Any) -> Any:
            at = [k - where(a) for a, k in enumerate(i)]
            if mode == "constant":
                inside = tirx.all(*[c for a, k in enumerate(at) for c in (k >= 0, k < t.shape[a])])
                return tirx.if_then_else(inside, t(*at), value())
            return t(*[_outside(k, t.shape[a], mode) for a, k in enumerate(at)])

        return te.compute(shape, element, name="pad")

    return n.te(body, n.x(0), first, fill, shape_expr(out), name="pad")


def pad_tensor(n: Node, x: Any, before: list[Dim], after: list[Dim], mode: str, value: Any) -> Any:
    """Pad (or, where negative, crop) each axis. value: numpy scalar or a Relax scalar."""
    have = dims_of(x)
    dtype = dtype_of(x)
    if all(isinstance(b, int) and b == 0 for b in (*before, *after)):
        return x
    static = all(isinstance(b, int) and b >= 0 for b in (*before, *after))
    if mode == "constant" and static and isinstance(value, np.ndarray | np.generic) and dtype == "float32":
        widths = [w for pair in zip(before, after, strict=True) for w in pair]
        return n.emit(relax.op.nn.pad(x, widths, "constant", float(value)))
    dims = [n.math.add(n.math.add(d, b), a) for d, b, a in zip(have, before, after, strict=True)]
    for d in dims:
        if isinstance(d, int) and d < 0:
            raise n.broken("crops more than there is")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise n.broken(f"has the unknown mode '{mode}'")
    fill = value if not isinstance(value, np.ndarray | np.generic) else None

    def body(t: Any, out: Any, first: Any, *scalar: Any) -> Any:
        def element(*i: Any) -> Any:
            at = [k - first[a] for a, k in enumerate(i)]
            if mode == "constant":
                inside = [
                    c for a, k in enumerate(at) if not _zero(before[a], after[a]) for c in (k >= 0, k < t.shape[a])
                ]
                other = scalar[0]() if scalar else imm(value, dtype)
                return tirx.if_then_else(tirx.all(*inside), t(*at), other) if inside else t(*at)
            return t(
                *[_outside(k, t.shape[a], mode) if not _zero(before[a], after[a]) else k for a, k in enumerate(at)]
            )

        return te.compute(out, element, name="pad")

    extra = [fill] if fill is not None and mode == "constant" else []
    return n.te(body, x, shape_expr(dims), shape_expr(before), *extra, name="pad")


def _zero(before: Dim, after: Dim) -> bool:
    return isinstance(before, int) and isinstance(after, int) and before == 0 and after == 0


def _outside(k: Any, extent: Any, mode: str) -> Any:
    if mode == "edge":
        return tirx.max(tirx.min(k, extent - 1), imm(0, "int64"))
    if mode == "wrap":
        return tirx.floormod(k, extent)
    # reflect: the period is 2 * (extent - 1), the edge itself is not repeated
    period = tirx.max(2 * (extent - 1), imm(1, "int64"))
    r = tirx.floormod(k, period)
    return tirx.Select(r < extent, r, period - r)
