"""Operators that pick, place or order elements: TopK, ScatterElements, ScatterND, NonZero, Compress, Unique, ReverseSequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from ..._top_k import first_of_axis
from .._empty import empty_value, is_empty
from .._exprs import constant, dims_of, shape_expr
from .._node import Node
from .._registry import op
from .._values import is_float
from ._loops import flat_extents, imperative, variable
from ._te import elementwise, imm, is_nan
from .indexing import check_places, take_slice

# ---- order


@op("TopK", since=[1, 10, 11, 24])
def top_k(n: Node) -> Any:
    axis = n.axis(n.int_attr("axis", -1), n.rank(0))
    k = n.dims(1, "k")[0] if n.version > 1 else n.int_attr("k")
    extent = n.shape(0)[axis]
    if n.math.compare(">", k, extent):
        raise n.broken(f"asks for {k} of {extent} elements")
    return first_of_axis(n.emit, n.x(0), axis, k, largest=bool(n.flag("largest", 1)), name=n.place)


# ---- scatter

_COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "none": lambda old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
}


_REDUCTIONS = ("add", "mul", "max", "min")


def _combine(reduction: str, dtype: str) -> Callable[[Any, Any], Any]:
    if reduction in _COMBINE:
        return _COMBINE[reduction]

    def pick(old: Any, new: Any) -> Any:
        wins = old > new if reduction == "max" else old < new
        return tirx.Select(tirx.any(wins, is_nan(old)) if is_float(dtype) else wins, old, new)

    return pick


@op("Scatter", since=[9, 11])
@op("ScatterElements", since=[11, 13, 16, 18])
def scatter_elements(n: Node) -> Any:
    axis = n.axis(n.int_attr("axis", 0), n.rank(0))
    reduction = n.choice("reduction", "none", *_REDUCTIONS)
    dtype = n.dtype(0)
    if dtype == "bool" and reduction != "none":
        raise n.refuse(f"reduction '{reduction}' on bool")
    combine = _combine(reduction, dtype)
    n.require_ranks(n.rank(0), 1, 2)
    check_places(n, 1, [n.shape(0)[axis]])
    for a in range(n.rank(0)):
        n.math.require_same(n.shape(1)[a], n.shape(2)[a])
        if a != axis:
            n.math.require_at_most(n.shape(1)[a], n.shape(0)[a])
    if is_empty(n.shape(1)):
        return n.value(0)

    def body(data: Any, indices: Any, updates: Any) -> Any:
        extents = data.shape

        def write(source: Any, index: Any, new: Any, out: Any) -> None:
            _copy(source, out, extents)
            with T.serial(0, _product(indices.shape)) as flat:
                where = _unflatten(flat, indices.shape)
                where[axis] = _wrap(index[flat], extents[axis])
                with T.If(tirx.all(where[axis] >= 0, where[axis] < extents[axis])):
                    with T.Then():
                        place = _flat(where, extents)
                        out[place] = combine(out[place], new[flat])

        return imperative([extents], [dtype], [data, indices, updates], write, "scatter_elements")[0]

    return n.te(body, n.x(0), n.x(1), n.x(2), name="scatter_elements")


@op("ScatterND", since=[11, 13, 16, 18])
def scatter_nd(n: Node) -> Any:
    reduction = n.choice("reduction", "none", *_REDUCTIONS)
    dtype = n.dtype(0)
    if dtype == "bool" and reduction != "none":
        raise n.refuse(f"reduction '{reduction}' on bool")
    combine = _combine(reduction, dtype)
    depth = n.shape(1)[-1] if n.rank(1) else None
    if not isinstance(depth, int) or depth > n.rank(0):
        raise n.broken(f"has indices of depth {depth} for rank {n.rank(0)}")
    check_places(n, 1, n.shape(0)[:depth])
    lead = len(n.shape(1)) - 1
    want = [*n.shape(1)[:-1], *n.shape(0)[depth:]]
    if len(want) != n.rank(2):
        raise n.broken(f"has updates of rank {n.rank(2)} where {len(want)} is needed")
    for a, b in zip(want, n.shape(2), strict=True):
        n.math.require_same(a, b)

    def body(data: Any, indices: Any, updates: Any) -> Any:
        extents = data.shape

        def write(source: Any, index: Any, new: Any, out: Any) -> None:
            _copy(source, out, extents)
            with T.serial(0, _product(updates.shape[:lead])) as i, T.serial(0, _product(updates.shape[lead:])) as j:
                inside = []
                place: Any = imm(0, "int64")
                for k in range(depth):
                    w = _wrap(index[i * depth + k], extents[k])
                    inside += [w >= 0, w < extents[k]]
                    place = place * extents[k] + w
                inner = _product(extents[depth:])
                with T.If(tirx.all(*inside) if inside else imm(True, "bool")):
                    with T.Then():
                        at = place * inner + j
                        out[at] = combine(out[at], new[i * inner + j])

        return imperative([extents], [dtype], [data, indices, updates], write, "scatter_nd")[0]

    return n.te(body, n.x(0), n.x(1), n.x(2), name="scatter_nd")


@op("TensorScatter", since=[24])
def tensor_scatter(n: Node) -> Any:
    """A cache [B, ..., L, ...] takes an update [B, ..., S, ...] at write_indices[b] (0 where absent) of `axis`."""
    rank = n.rank(0)
    axis = n.axis(n.int_attr("axis", -2), rank)
    circular = n.choice("mode", "linear", "circular") == "circular"
    dtype = n.dtype(0)
    given = n.has(2)
    n.require_ranks(rank, 1)
    for a, (kept, new) in enumerate(zip(n.shape(0), n.shape(1), strict=True)):
        (n.math.require_at_most if a == axis else n.math.require_same)(new, kept)
    if given:
        n.math.require_same(n.shape(2)[0], n.shape(0)[0])
        if not circular:
            check_places(n, 2, [n.math.add(n.math.sub(n.shape(0)[axis], n.shape(1)[axis]), 1)], wraps=False)

    def body(cache: Any, update: Any, *start: Any) -> Any:
        def element(*i: Any) -> Any:
            begin = tirx.Cast("int64", start[0](i[0])) if start else imm(0, "int64")
            offset = i[axis] - begin
            extent = cache.shape[axis]
            offset = tirx.floormod(offset, extent) if circular else offset
            inside = tirx.all(offset >= 0, offset < update.shape[axis])
            at = list(i)
            at[axis] = offset
            return tirx.if_then_else(inside, update(*at), cache(*i))

        return te.compute(cache.shape, element, name="tensor_scatter")

    del dtype
    return n.te(body, n.x(0), n.x(1), *([n.x(2)] if given else []), name="tensor_scatter")


def _copy(source: Any, out: Any, extents: Any) -> None:
    with T.serial(0, _product(extents)) as i:
        out[i] = source[i]


def _product(extents: Any) -> Any:
    out: Any = imm(1, "int64")
    for e in extents:
        out = out * e
    return out


def _flat(index: Any, extents: Any) -> Any:
    out: Any = imm(0, "int64")
    for i, e in zip(index, extents, strict=True):
        out = out * e + i
    return out


def _unflatten(flat: Any, extents: Any) -> list[Any]:
    out = []
    for e in reversed(list(extents)):
        out.append(tirx.floormod(flat, e))
        flat = tirx.floordiv(flat, e)
    return out[::-1]


def _wrap(index: Any, extent: Any) -> Any:
    at = tirx.Cast("int64", index)
    return tirx.Select(at < 0, at + extent, at)


# ---- sizes that the data decides


def _count(n: Node, mask: Any) -> Any:
    """How many elements of a bool tensor are true, as a new symbol."""
    dims = dims_of(mask)

    def body(t: Any) -> Any:
        def write(flags: Any, total: Any) -> None:
            total[0] = imm(0, "int64")
            with T.serial(0, _product(t.shape)) as i:
                total[0] = total[0] + tirx.Cast("int64", flags[i])

        return imperative([[1]], ["int64"], [t], write, "count")[0]

    del dims
    return n.graph.bind_tensor(n.te(body, mask, name="count"), 1, n.place)[0]


@op("NonZero", since=[9, 13])
def non_zero(n: Node) -> Any:
    dtype = n.dtype(0)
    mask = n.x(0) if dtype == "bool" else elementwise(n, lambda v: v != imm(0, dtype), n.x(0), name="is_nonzero")
    rank = n.rank(0)
    count = _count(n, mask)

    def body(t: Any, dims: Any) -> Any:
        def write(flags: Any, out: Any) -> None:
            cursor = variable("int64")
            cursor[0] = imm(0, "int64")
            with T.serial(0, _product(t.shape)) as i:
                with T.If(flags[i]):
                    with T.Then():
                        rest: Any = i
                        for a in range(rank - 1, -1, -1):
                            extent = tirx.max(t.shape[a], imm(1, "int64"))  # of 0, where no element comes this far
                            out[a * dims[1] + cursor[0]] = tirx.floormod(rest, extent)
                            rest = tirx.floordiv(rest, extent)
                        cursor[0] = cursor[0] + 1

        return imperative([dims], ["int64"], [t], write, "nonzero")[0]

    return n.te(body, mask, shape_expr([rank, count]), name="nonzero")


@op("Compress", since=[9, 11, 28])
def compress(n: Node) -> Any:
    x = n.x(0)
    if n.has_attr("axis"):
        axis = n.axis(n.int_attr("axis"), n.rank(0))
    else:
        axis = 0
        x = n.reshape(x, [n.math.product(n.shape(0))])
    dims = dims_of(x)
    condition = n.x(1)
    length = dims_of(condition)[0]
    if n.math.compare(">", length, dims[axis]):
        raise n.broken(f"has {length} conditions for {dims[axis]} elements")
    count = _count(n, condition)
    out = list(dims)
    out[axis] = count

    def positions(t: Any, shape: Any) -> Any:
        def write(flags: Any, order: Any) -> None:
            cursor = variable("int64")
            cursor[0] = imm(0, "int64")
            with T.serial(0, t.shape[0]) as i:
                with T.If(flags[i]):
                    with T.Then():
                        order[cursor[0]] = i
                        cursor[0] = cursor[0] + 1

        return imperative([shape], ["int64"], [t], write, "positions")[0]

    where = n.te(positions, condition, shape_expr([count]), name="positions")

    def body(t: Any, at: Any, shape: Any) -> Any:
        return te.compute(shape, lambda *i: t(*i[:axis], at(i[axis]), *i[axis + 1 :]), name="compress")

    return n.te(body, x, where, shape_expr(out), name="compress")


@op("Unique", since=[11, 28])
def unique(n: Node) -> Any:
    """Sorts positions of the slices along an axis (or of all elements) lexicographically, then counts runs of equal ones."""
    ordered = n.flag("sorted", 1)
    x, dtype = n.x(0), n.dtype(0)
    flatten = not n.has_attr("axis")
    if flatten:
        x = n.reshape(x, [n.math.product(n.shape(0))])
    axis = 0 if flatten else n.axis(n.int_attr("axis"), n.rank(0))
    dims = dims_of(x)
    if dtype == "bool":
        raise n.refuse("on bool")
    extent = dims[axis]

    def body(t: Any) -> list[Any]:
        before, length, after = flat_extents(t.shape, axis)

        def same_or_less(source: Any, p: Any, q: Any, result: Any) -> None:
            """result[0]: -1, 0 or 1 as slice p comes before, equals or comes behind slice q."""
            result[0] = imm(0, "int64")
            with T.serial(0, before) as b, T.serial(0, after) as a:
                u, v = source[(b * length + p) * after + a], source[(b * length + q) * after + a]
                with T.If(tirx.all(result[0] == 0, u != v)):
                    with T.Then():
                        result[0] = tirx.Select(u < v, imm(-1, "int64"), imm(1, "int64"))

        def write(source: Any, order: Any, spare: Any, group: Any, first: Any, number: Any) -> None:
            del spare
            result, cursor, groups = variable("int64"), variable("int64"), variable("int64")
            # Insertion sort of positions: stable, and quadratic, as its users are small.
            with T.serial(0, length) as i:
                cursor[0] = i
                result[0] = imm(1, "int64")
                with T.While(tirx.all(cursor[0] > 0, result[0] > 0)):
                    same_or_less(source, order[cursor[0] - 1], i, result)
                    with T.If(result[0] > 0):
                        with T.Then():
                            order[cursor[0]] = order[cursor[0] - 1]
                            cursor[0] = cursor[0] - 1
                order[cursor[0]] = i
            groups[0] = imm(-1, "int64")
            with T.serial(0, length) as i:
                with T.If(i == 0):
                    with T.Then():
                        result[0] = imm(1, "int64")
                    with T.Else():
                        same_or_less(source, order[i], order[i - 1], result)
                with T.If(result[0] != 0):
                    with T.Then():
                        groups[0] = groups[0] + 1
                        first[groups[0]] = order[i]
                group[order[i]] = groups[0]
            number[0] = groups[0] + 1

        shape = [length]
        return imperative([shape, shape, shape, shape, [1]], ["int64"] * 5, [t], write, "unique")

    parts = n.te(body, x, name="unique")
    _, _, group, first, number = (n.emit(parts[k]) for k in range(5))
    count = n.graph.bind_tensor(number, 1, n.place)[0]
    heads = take_slice(n, first, 0, 0, count)
    if not ordered:
        # In the order of first occurrence: the groups are numbered anew by their first positions.
        _, order = first_of_axis(n.emit, heads, 0, count, largest=False, name=n.place)
        heads = n.te(lambda h, o: te.compute(o.shape, lambda i: h(o(i)), name="by_first"), heads, order)
        rank_of = n.te(_inverse, order, name="inverse")
        group = n.te(lambda g, r: te.compute(g.shape, lambda i: r(g(i)), name="renumber"), group, rank_of)
    out = list(dims)
    out[axis] = count
    values = n.te(
        lambda t, h, s: te.compute(s, lambda *i: t(*i[:axis], h(i[axis]), *i[axis + 1 :]), name="values"),
        x,
        heads,
        shape_expr(out),
    )
    counts = n.te(lambda g, s: _histogram(g, s), group, shape_expr([count]), name="counts")
    del extent
    return [values, heads, group, counts][: max(len(n.proto.output), 1)]


def _inverse(order: Any) -> Any:
    def write(source: Any, out: Any) -> None:
        with T.serial(0, order.shape[0]) as i:
            out[source[i]] = i

    return imperative([order.shape], ["int64"], [order], write, "inverse")[0]


def _histogram(group: Any, shape: Any) -> Any:
    def write(source: Any, out: Any) -> None:
        with T.serial(0, shape[0]) as i:
            out[i] = imm(0, "int64")
        with T.serial(0, group.shape[0]) as i:
            out[source[i]] = out[source[i]] + 1

    return imperative([shape], ["int64"], [group], write, "histogram")[0]


@op("ReverseSequence", since=[10, 28])
def reverse_sequence(n: Node) -> Any:
    batch, time = n.int_attr("batch_axis", 1), n.int_attr("time_axis", 0)
    if {batch, time} != {0, 1} or n.rank(0) < 2:
        raise n.broken(f"has batch axis {batch} and time axis {time} of rank {n.rank(0)}, expected axes 0 and 1")
    n.math.require_same(n.shape(1)[0], n.shape(0)[batch])
    check_places(n, 1, [n.math.add(n.shape(0)[time], 1)], wraps=False)

    def body(t: Any, lengths: Any) -> Any:
        def element(*i: Any) -> Any:
            length = tirx.Cast("int64", lengths(i[batch]))
            at = list(i)
            at[time] = tirx.Select(i[time] < length, tirx.max(length - 1 - i[time], imm(0, "int64")), i[time])
            return t(*at)

        return te.compute(t.shape, element, name="reverse_sequence")

    return n.te(body, n.x(0), n.x(1), name="reverse_sequence")


@op("NonMaxSuppression", since=[10, 11])
def non_max_suppression(n: Node) -> Any:
    """boxes [B, S, 4], scores [B, C, S]: greedy suppression for each batch and class, highest score first."""
    centre = n.flag("center_point_box")
    boxes, scores = n.x(0), n.x(1)
    limit = _scalar(n, 2, "int64", 0)
    overlap = _overlap_limit(n)
    threshold = _scalar(n, 4, "float32", float("-inf"))
    has_threshold = n.has(4)
    batches, classes, spatial = n.shape(1)
    total = n.math.product([batches, classes, spatial])
    if is_empty(n.shape(1)):
        return empty_value([0, 3], "int64", n.place)
    _, order = first_of_axis(n.emit, scores, 2, spatial, largest=True, name=n.place)

    def body(b: Any, s: Any, o: Any, max_boxes: Any, iou: Any, score_limit: Any, rows: Any) -> list[Any]:
        def write(
            box: Any, score: Any, sorted_: Any, top: Any, limit_iou: Any, low: Any, out: Any, kept: Any, number: Any
        ) -> None:
            found, here, alive = variable("int64"), variable("int64"), variable("bool")
            found[0] = imm(0, "int64")
            with T.serial(0, s.shape[0]) as i, T.serial(0, s.shape[1]) as c:
                here[0] = imm(0, "int64")
                with T.serial(0, s.shape[2]) as k:
                    p = sorted_[(i * s.shape[1] + c) * s.shape[2] + k]
                    value = score[(i * s.shape[1] + c) * s.shape[2] + p]
                    good = value > low[0] if has_threshold else imm(True, "bool")
                    with T.If(tirx.all(here[0] < top[0], good)):
                        with T.Then():
                            alive[0] = imm(True, "bool")
                            with T.serial(0, here[0]) as j:
                                q = kept[j]
                                mine, other = (i * s.shape[2] + p) * 4, (i * s.shape[2] + q) * 4
                                with T.If(_overlap(box, mine, other, centre) > limit_iou[0]):
                                    with T.Then():
                                        alive[0] = imm(False, "bool")
                            with T.If(alive[0]):
                                with T.Then():
                                    out[found[0] * 3] = i
                                    out[found[0] * 3 + 1] = c
                                    out[found[0] * 3 + 2] = p
                                    kept[here[0]] = p
                                    here[0] = here[0] + 1
                                    found[0] = found[0] + 1
            number[0] = found[0]

        shapes = [[rows[0], 3], [s.shape[2]], [1]]
        return imperative(shapes, ["int64"] * 3, [b, s, o, max_boxes, iou, score_limit], write, "non_max_suppression")

    parts = n.te(body, boxes, scores, order, limit, overlap, threshold, shape_expr([total]), name="non_max_suppression")
    count = n.graph.bind_tensor(n.emit(parts[2]), 1, n.place)[0]
    return take_slice(n, n.emit(parts[0]), 0, 0, count)


def _overlap_limit(n: Node) -> Any:
    """iou_threshold, which is from 0 to 1: implementations do not agree on what others mean."""
    if n.has(3):
        given = n.value(3)
        if given.const is not None and not 0 <= n.scalar(3, "iou_threshold") <= 1:
            raise n.broken(f"has an iou_threshold of {n.scalar(3):g}, expected 0 to 1")
        if given.const is None:
            flat = n.reshape(n.x(3), [1])
            n.check(lambda t: tirx.all(t(0) >= 0, t(0) <= 1), flat, says="has an iou_threshold that is not from 0 to 1")
            n.graph.limit_values(given, 0.0, 1.0)
    return _scalar(n, 3, "float32", 0.0)


def _scalar(n: Node, i: int, dtype: str, default: float) -> Any:
    """Input i as a tensor of one element."""
    if not n.has(i):
        return constant(np.array([default], dtype))
    return n.cast(n.reshape(n.x(i), [1]), dtype)


def _overlap(box: Any, p: Any, q: Any, centre: bool) -> Any:
    """Intersection over union of two boxes, corners in any order or as centre and size."""

    def corners(at: Any) -> tuple[Any, Any, Any, Any]:
        a, b, c, d = (box[at + k] for k in range(4))
        half = imm(0.5, "float32")
        if centre:
            return a - c * half, b - d * half, a + c * half, b + d * half
        return tirx.min(a, c), tirx.min(b, d), tirx.max(a, c), tirx.max(b, d)

    (y0, x0, y1, x1), (v0, u0, v1, u1) = corners(p), corners(q)
    zero = imm(0, "float32")
    common = tirx.max(tirx.min(y1, v1) - tirx.max(y0, v0), zero) * tirx.max(tirx.min(x1, u1) - tirx.max(x0, u0), zero)
    union = (y1 - y0) * (x1 - x0) + (v1 - v0) * (u1 - u0) - common
    return tirx.Select(union > zero, common / tirx.Select(union > zero, union, imm(1, "float32")), zero)
