"""Operators that take elements by their position: slice, split, gather, one-hot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from .._dims import Dim
from .._exprs import constant, dims_of, shape_expr
from .._node import Node
from .._registry import op
from ._runtime import bind_vector, check_axes, int64, invalid_unless, list_length, pick, vector
from ._te import imm


@op("Split", since=[2, 11, 13, 18])
def split(n: Node) -> Any:
    dims = n.shape(0)
    axis = n.axis(n.int_attr("axis", 0), len(dims))
    out = []
    start: Dim = 0
    for s in split_sizes(n, dims[axis]):
        out.append(take_slice(n, n.x(0), axis, start, s))
        start = n.math.add(start, s)
    return out


def split_sizes(n: Node, extent: Dim) -> list[Dim]:
    """Of Split: the extents of its outputs along its axis, which add up to that of its input."""
    outputs = len(n.proto.output)
    if n.version >= 18 and n.has(1) == n.has_attr("num_outputs"):
        raise n.broken("must have either sizes of its parts or num_outputs")
    if n.version < 13 and n.has_attr("split"):
        sizes: list[Dim] = list(n.ints_attr("split"))
    elif n.version >= 13 and n.has(1):
        sizes = part_sizes(n, extent)
    else:
        count = n.int_attr("num_outputs", outputs) if n.version >= 18 else outputs
        each = n.math.ceildiv(extent, count)
        if n.version < 18 and isinstance(extent, int) and extent % count:
            raise n.broken(f"splits {extent} into {count} equal parts")
        last = n.math.sub(extent, n.math.mul(each, count - 1))
        if n.math.compare("<", last, 0) is not False:
            raise n.refuse("of a dynamic dimension into parts whose sizes are not known")
        sizes = [each] * (count - 1) + [last]
    if len(sizes) != outputs:
        raise n.broken(f"has {outputs} outputs for {len(sizes)} parts")
    if n.version < 13:
        _require_sizes(n, sizes, extent)
    return sizes


def part_sizes(n: Node, extent: Dim) -> list[Dim]:
    """Input 1 as the sizes of parts, which add up to the extent; a run refuses those of its own that do not."""
    if n.value(1).known:
        return _require_sizes(n, n.dims(1, "split"), extent)
    count = list_length(n, 1)

    def build(split: Any, dims: Any) -> list[Any]:
        sizes = [pick(split, k, count) for k in range(count)]
        total: Any = imm(0, "int64")
        for s in sizes:
            total = total + s
        return [invalid_unless(total == dims[0], s) for s in sizes]

    says = "is given sizes of parts that do not add up to the extent of its axis, or a negative one"
    return bind_vector(n, build, n.x(1), dims=[extent], count=count, says=says)


def _require_sizes(n: Node, sizes: list[Dim], extent: Dim) -> list[Dim]:
    total: Dim = 0
    for s in sizes:
        if n.math.compare("<", s, 0) is True:
            raise n.broken(f"has a part of size {s}")
        total = n.math.add(total, s)
    n.math.require_same(total, extent)
    return sizes


def take_slice(n: Node, x: Any, axis: int, start: Dim, extent: Dim, step: int = 1) -> Any:
    """`extent` elements of an axis from `start` on."""
    dims = list(dims_of(x))
    if start == 0 and step == 1 and n.math.same(extent, dims[axis]):
        return x
    if isinstance(start, int) and isinstance(extent, int) and isinstance(dims[axis], int) and step > 0:
        return n.emit(
            relax.op.strided_slice(x, [axis], [start], [start + (extent - 1) * step + 1 if extent else start], [step])
        )
    dims[axis] = extent

    def body(t: Any, out: Any, begin: Any) -> Any:
        def element(*i: Any) -> Any:
            index = list(i)
            index[axis] = begin[0] + index[axis] * step
            return t(*index)

        return te.compute(out, element, name="slice")

    return n.te(body, x, shape_expr(dims), shape_expr([start]), name="slice")


def slice_bounds(n: Node, *, need_const: bool = False) -> list[tuple[int, Dim, Dim, int]] | None:
    """(axis, start, end, step) as the node gives them; None if `need_const` and they are not constants."""
    rank = n.rank(0)
    if n.version < 10:
        starts: list[Dim] = list(n.ints_attr("starts"))
        ends: list[Dim] = list(n.ints_attr("ends"))
        axes = n.ints_attr("axes", list(range(len(starts))))
        steps = [1] * len(starts)
    else:
        given = [n.value(i) for i in range(1, 5) if n.has(i)]
        if need_const and any(v.const is None for v in given):
            return None
        starts, ends = n.dims(1, "starts"), n.dims(2, "ends")
        axes = n.ints(3, "axes") if n.has(3) else list(range(len(starts)))
        steps = n.ints(4, "steps") if n.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise n.broken("has starts, ends, axes and steps of different lengths")
    if any(s == 0 for s in steps):
        raise n.broken("has a step of 0")
    return list(zip(n.axes(axes, rank), starts, ends, steps, strict=True))


@op("Slice", since=[1, 10, 11, 13])
def slice_(n: Node) -> Any:
    if n.version >= 10 and not all(n.value(i).known for i in (1, 2) if n.has(i)):
        return _runtime_slice(n)
    if n.version >= 10 and not all(n.value(i).const is not None for i in (3, 4) if n.has(i)):
        return _runtime_slice(n)
    bounds = slice_bounds(n)
    assert bounds is not None
    x = n.x(0)
    dims = list(n.shape(0))
    begin: list[Dim] = [0] * len(dims)
    strides = [1] * len(dims)
    for axis, start, end, step in bounds:
        begin[axis], dims[axis] = _slice_axis(n, dims[axis], start, end, step)
        strides[axis] = step
    touched = [
        a for a in range(len(dims)) if begin[a] != 0 or strides[a] != 1 or not n.math.same(dims[a], n.shape(0)[a])
    ]
    if not touched:
        return n.value(0)
    if all(isinstance(begin[a], int) and isinstance(dims[a], int) and strides[a] > 0 for a in touched):
        static = all(isinstance(n.shape(0)[a], int) for a in touched)
        if static:
            ends = [begin[a] + (dims[a] - 1) * strides[a] + 1 if dims[a] else begin[a] for a in touched]
            return relax.op.strided_slice(x, touched, [begin[a] for a in touched], ends, [strides[a] for a in touched])

    def body(t: Any, out: Any, first: Any) -> Any:
        return te.compute(out, lambda *i: t(*[first[a] + k * strides[a] for a, k in enumerate(i)]), name="slice")

    return n.te(body, x, shape_expr(dims), shape_expr(begin))


def _runtime_slice(n: Node) -> Any:
    """Slice with bounds, axes or steps from the run: first index and step are read from a tensor, the counts are bound."""
    dims = n.shape(0)
    rank = len(dims)
    count = list_length(n, 1)
    given = [n.x(i) for i in range(1, 5) if n.has(i)]
    has_axes, has_steps = n.has(3), n.has(4)
    if count > rank:
        raise n.broken(f"slices {count} axes of an input of rank {rank}")
    if has_axes:
        check_axes(n, 3, rank)

    def normal(*args: Any) -> list[tuple[Any, Any, Any]]:
        """(first, step, number of elements) of each axis."""
        *tensors, extents = args
        starts, ends = tensors[0], tensors[1]
        axes = tensors[2] if has_axes else None
        steps = tensors[2 + has_axes] if has_steps else None
        out = []
        for a in range(rank):
            extent = int64(extents[a])
            first, step, amount = imm(0, "int64"), imm(1, "int64"), extent
            for k in range(count):
                axis = pick(axes, k, count) if axes is not None else imm(k, "int64")
                hit = tirx.any(axis == a, axis == a - rank)
                s = pick(steps, k, count) if steps is not None else imm(1, "int64")
                begin, end = pick(starts, k, count), pick(ends, k, count)
                down = s < 0
                begin = tirx.Select(begin < 0, begin + extent, begin)
                end = tirx.Select(end < 0, end + extent, end)
                low = tirx.Select(down, imm(-1, "int64"), imm(0, "int64"))
                high = tirx.Select(down, extent - 1, extent)
                begin = tirx.min(tirx.max(begin, imm(0, "int64")), high)  # with a negative step, too
                end = tirx.max(low, tirx.min(end, high))
                size = tirx.max(tirx.Select(down, imm(0, "int64") - s, s), imm(1, "int64"))
                length = tirx.Select(down, begin - end, end - begin)
                number = tirx.floordiv(tirx.max(length, imm(0, "int64")) + size - 1, size)
                first = tirx.Select(hit, begin, first)
                step = tirx.Select(hit, s, step)
                amount = tirx.Select(hit, invalid_unless(s != 0, number), amount)
            out.append((first, step, amount))
        return out

    begin = vector(n, lambda *t: [e for f, s, _ in normal(*t) for e in (f, s)], *given, dims=dims, name="slice_begin")
    counts = lambda *t: [c for _, _, c in normal(*t)]  # noqa: E731
    out = bind_vector(n, counts, *given, dims=dims, count=rank, says="is given a step of 0")
    if not has_axes or n.value(3).const is not None:
        sliced = n.axes(n.ints(3), rank) if has_axes else list(range(count))
        out = [o if a in sliced else dims[a] for a, o in enumerate(out)]

    def body(t: Any, where: Any, extents: Any) -> Any:
        return te.compute(
            extents, lambda *i: t(*[where(2 * a) + k * where(2 * a + 1) for a, k in enumerate(i)]), name="slice"
        )

    return n.te(body, n.x(0), begin, shape_expr(out), name="slice")


def _slice_axis(n: Node, extent: Dim, start: Dim, end: Dim, step: int) -> tuple[Dim, Dim]:
    """(first index, number of elements) of numpy's slice of one axis."""
    if isinstance(extent, int) and isinstance(start, int) and isinstance(end, int):
        r = range(extent)[
            slice(first_bound(start, extent, step), end if not (step < 0 and end < -extent) else None, step)
        ]
        return (r.start if len(r) else 0), len(r)
    low, high = (0, extent) if step > 0 else (-1, n.math.sub(extent, 1))
    start, end = _clamped_bound(n, start, extent, 0, high), _clamped_bound(n, end, extent, low, high)
    if step < 0:
        start = n.math.min(start, high)  # of no elements at all
    if step > 0:
        length = n.math.sub(end, start)
        count = n.math.ceildiv(length, step)
    else:
        length = n.math.sub(start, end)
        count = n.math.ceildiv(length, -step)
    count = n.math.max(count, 0)
    return start, count


def first_bound(start: int, extent: int, step: int) -> int:
    """Where a slice begins, as Python counts: with a negative step ONNX begins at the first element where a start lies before it."""
    return max(start, -extent) if step < 0 else start


def _clamped_bound(n: Node, value: Dim, extent: Dim, low: Dim, high: Dim) -> Dim:
    """A slice's bound, counted from the beginning, within [low, high]."""
    if isinstance(value, int) and abs(value) >= 10**9:
        return low if value < 0 else high  # it only means "from the beginning" or "to the end"
    return _clamp(n, _from_end(n, value, extent), low, high)


def _from_end(n: Node, value: Dim, extent: Dim) -> Dim:
    """A bound or an index that counts from the end where it is negative, from the beginning."""
    negative: Any = n.math.compare("<", value, 0)
    if negative is None:  # only a run knows: 1 if it is, else 0
        negative = n.math.min(n.math.max(n.math.sub(0, value), 0), 1)
    return n.math.add(value, n.math.mul(extent, int(negative) if isinstance(negative, bool) else negative))


def _clamp(n: Node, value: Dim, low: Dim, high: Dim) -> Dim:
    return (
        n.math.max(low, n.math.min(value, high))
        if n.math.compare(">=", value, low) is not True
        else n.math.min(value, high)
    )


@op("Gather", since=[1, 11, 13])
def gather(n: Node) -> Any:
    axis = n.axis(n.int_attr("axis", 0), n.rank(0))
    extent = n.shape(0)[axis]
    value = n.value(1)
    if value.const is not None:
        index = value.const.astype(np.int64)
        check_indices(n, index, extent)
        if isinstance(extent, int):
            index = np.where(index < 0, index + extent, index)
        if index.ndim == 0 and isinstance(extent, int):
            dims = list(n.shape(0))
            part = take_slice(n, n.x(0), axis, int(index), 1)
            del dims[axis]
            return n.reshape(part, dims)
        if (index >= 0).all():
            return relax.op.take(n.x(0), constant(index), axis)
    else:
        n.graph.limit_index(value, extent)
        if value.sym is None and n.dtype(1) in ("int32", "int64"):
            # The kernel behind it counts negative indices from the end and refuses those out of range.
            return relax.op.take(n.x(0), n.x(1), axis)
    check_places(n, 1, [extent])
    data_dims, index_dims = n.shape(0), n.shape(1)
    out = [*data_dims[:axis], *index_dims, *data_dims[axis + 1 :]]

    def body(data: Any, indices: Any, dims: Any) -> Any:
        def element(*i: Any) -> Any:
            at = wrap_index(indices(*i[axis : axis + len(index_dims)]), data.shape[axis])
            return data(*i[:axis], at, *i[axis + len(index_dims) :])

        return te.compute(dims, element, name="gather")

    return n.te(body, n.x(0), n.x(1), shape_expr(out))


def check_indices(n: Node, index: Any, extent: Dim, *, wraps: bool = True) -> None:
    """Refuse indices that are known, an array, and out of range for an extent that is."""
    if index is not None and index.size and isinstance(extent, int):
        if not (-extent if wraps else 0) <= index.min() <= index.max() < extent:
            raise n.broken(f"has an index out of range for {extent} elements")


def check_places(n: Node, i: int, extents: Sequence[Dim], *, wraps: bool = True) -> None:
    """Input i, whose last axis holds places in these extents, or, if there is one extent, whose elements do: refuse what is known to be out
    of range, and have each run refuse what is not known. Where it `wraps`, places may be counted from the end."""
    places, symbols = n.value(i).const, n.value(i).sym
    if len(extents) == 1:
        n.graph.limit_index(n.value(i), extents[0])
        if symbols is not None and all(_certain(n, e, extents[0]) for e in symbols.flat):
            return
    if places is not None and all(isinstance(extent, int) for extent in extents):
        for k, extent in enumerate(extents):
            check_indices(n, places[..., k] if len(extents) > 1 else places, extent, wraps=wraps)
    elif extents:
        n.graph.check_indices(n.x(i), extents, n.place, wraps=wraps)


def _certain(n: Node, index: Dim, extent: Dim) -> bool:
    return bool(n.math.compare("<", index, extent) and n.math.compare(">=", index, 0))


def wrap_index(index: Any, extent: Any) -> Any:
    """A possibly negative index as a valid one, in int64; what is out of range, where the run is refused, is clamped, so that no memory
    outside is read."""
    at = tirx.Cast("int64", index)
    at = tirx.Select(at < 0, at + extent, at)
    return tirx.max(tirx.min(at, extent - 1), imm(0, "int64"))


@op("GatherElements", since=[11, 13])
def gather_elements(n: Node) -> Any:
    axis = n.axis(n.int_attr("axis", 0), n.rank(0))
    n.require_ranks(n.rank(0), 1)
    check_places(n, 1, [n.shape(0)[axis]])
    for a in range(n.rank(0)):
        if a != axis:
            n.math.require_at_most(n.shape(1)[a], n.shape(0)[a])

    def body(data: Any, indices: Any) -> Any:
        def element(*i: Any) -> Any:
            at = list(i)
            at[axis] = wrap_index(indices(*i), data.shape[axis])
            return data(*at)

        return te.compute(indices.shape, element, name="gather_elements")

    return n.te(body, n.x(0), n.x(1))


@op("GatherND", since=[11, 12, 13])
def gather_nd(n: Node) -> Any:
    batch = n.int_attr("batch_dims", 0)
    data, index = n.shape(0), n.shape(1)
    if not 0 <= batch < min(len(data), len(index)):
        raise n.broken(f"has {batch} batch dimensions for ranks {len(data)} and {len(index)}")
    depth = index[-1]
    if not isinstance(depth, int) or not 1 <= depth <= len(data) - batch:
        raise n.broken(f"has indices of depth {depth} for rank {len(data)} with {batch} batch dimensions")
    out = [*index[:-1], *data[batch + depth :]]
    check_places(n, 1, data[batch : batch + depth])
    for a, b in zip(data[:batch], index[:-1], strict=False):
        n.math.require_same(a, b)
    lead = len(index) - 1

    def body(t: Any, indices: Any, dims: Any) -> Any:
        def element(*i: Any) -> Any:
            at = [wrap_index(indices(*i[:lead], k), t.shape[batch + k]) for k in range(depth)]
            return t(*i[:batch], *at, *i[lead:])

        return te.compute(dims, element, name="gather_nd")

    return n.te(body, n.x(0), n.x(1), shape_expr(out))


@op("OneHot", since=[9, 11, 28])
def one_hot(n: Node) -> Any:
    depth_value = n.value(1)
    if depth_value.known:
        depth: Dim = int(depth_value.const.reshape(())) if depth_value.const is not None else n.dims(1, "depth")[0]
    else:
        (depth,) = bind_vector(n, lambda d, _: [pick(d, 0, 1)], n.x(1), count=1)
    rank = n.rank(0) + 1
    axis = n.axis(n.int_attr("axis", -1), rank)
    dims = list(n.shape(0))
    dims.insert(axis, depth)

    def body(indices: Any, values: Any, out: Any) -> Any:
        def element(*i: Any) -> Any:
            at = tirx.Cast("int64", indices(*i[:axis], *i[axis + 1 :]))
            at = tirx.Select(at < 0, at + out[axis], at)
            return tirx.Select(at == i[axis], values(1), values(0))

        return te.compute(out, element, name="one_hot")

    return n.te(body, n.x(0), n.x(2), shape_expr(dims))
