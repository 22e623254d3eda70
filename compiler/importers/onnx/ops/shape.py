"""Operators that move elements without computing on them: reshape, transpose, slice, concatenate, gather, scatter, pad."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from .._dims import Dim
from .._node import Node, constant, dims_of, dtype_of, shape_expr
from .._registry import op
from .._stored import STORED, storage
from .._values import Value, numpy_dtype
from ._runtime import axis_mask, bind_vector, int64, invalid_unless, pick, vector
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


@op("Shape", since=[1, 13, 15, 19, 21, 23, 24, 25])
def shape(n: Node) -> Any:
    from .symbolic import shape_of

    return Value.of_symbols(shape_of(n), "int64", n.place)


@op("Size", since=[1, 13, 19, 21, 23, 24, 25])
def size(n: Node) -> Any:
    out = np.empty((), dtype=object)
    out[()] = n.math.product(n.shape(0))
    return Value.of_symbols(out, "int64", n.place)


# ---- new shape, same elements


@op("Reshape", since=[5, 13, 14, 19, 21, 23, 24, 25])
def reshape(n: Node) -> Any:
    have = n.shape(0)
    allowzero = n.flag("allowzero")
    if not n.value(1).known:
        return n.reshape(n.x(0), _runtime_shape(n, have, allowzero))
    target = n.dims(1, "shape")
    dims: list[Dim] = []
    for i, d in enumerate(target):
        if isinstance(d, int) and d == 0 and not allowzero:
            if i >= len(have):
                raise n.broken(f"copies dimension {i} of an input of rank {len(have)}")
            d = have[i]
        dims.append(d)
    return n.reshape(n.x(0), infer_dim(n, have, dims))


def _runtime_shape(n: Node, have: tuple[Dim, ...], allowzero: bool) -> list[Dim]:
    """The extents of a target shape that a run computes, with 0 and -1 resolved there."""
    length = n.shape(1)[0]
    if not isinstance(length, int):
        raise n.refuse("a shape whose length is only known at run time")

    def build(target: Any, dims: Any) -> list[Any]:
        total: Any = imm(1, "int64")
        for d in dims:
            total = total * d
        wanted = []
        for k in range(length):
            t = pick(target, k, length)
            wanted.append(tirx.Select(t == 0, int64(dims[k]), t) if not allowzero and k < len(have) else t)
        known: Any = imm(1, "int64")
        for w in wanted:
            known = known * tirx.Select(w == -1, imm(1, "int64"), w)
        rest = tirx.floordiv(total, tirx.max(known, imm(1, "int64")))
        out = [tirx.Select(w == -1, rest, w) for w in wanted]
        product: Any = imm(1, "int64")
        for o in out:
            product = product * o
        return [invalid_unless(product == total, o) for o in out]

    return bind_vector(n, build, n.x(1), dims=have, count=length)


def infer_dim(n: Node, have: tuple[Dim, ...], dims: list[Dim]) -> list[Dim]:
    """Replace the one -1 of a target shape by what is left of the elements; check the product."""
    unknown = [i for i, d in enumerate(dims) if isinstance(d, int) and d == -1]
    if len(unknown) > 1 or any(isinstance(d, int) and d < -1 for d in dims):
        raise n.broken(f"has the impossible shape {dims}")
    total = n.math.product(have)
    if not unknown:
        wanted = n.math.product(dims)
        if isinstance(total, int) and isinstance(wanted, int) and total != wanted:
            raise n.broken(f"turns {total} elements into shape {dims}")
        if not n.math.same(total, wanted):
            _equate(n, have, dims)
        return dims
    # Cancel factors that stand on both sides before dividing: n * 12 * 64 into [n, 12, -1].
    rest = list(have)
    known: list[Dim] = []
    for i, d in enumerate(dims):
        if i == unknown[0]:
            continue
        match = next((k for k, r in enumerate(rest) if n.math.same(r, d)), None)
        if match is None:
            known.append(d)
        else:
            rest.pop(match)
    top, bottom = n.math.product(rest), n.math.product(known)
    if isinstance(bottom, int) and bottom == 0:
        raise n.broken(f"cannot infer -1 in shape {dims}")
    if isinstance(top, int) and isinstance(bottom, int) and top % bottom:
        raise n.broken(f"does not fit shape {dims} to an input of shape {list(have)}")
    out = list(dims)
    out[unknown[0]] = n.math.floordiv(top, bottom)
    return out


def _equate(n: Node, have: tuple[Dim, ...], dims: list[Dim]) -> None:
    """Products that are not known to be equal: a symbol must take the value that makes them so."""
    left, right = list(have), list(dims)
    for d in list(left):
        match = next((k for k, r in enumerate(right) if n.math.same(r, d)), None)
        if match is not None:
            right.pop(match)
            left.pop(next(k for k, r in enumerate(left) if r is d))
    a, b = n.math.product(left), n.math.product(right)
    for x, y in ((a, b), (b, a)):
        parts = left if x is a else right
        variables = [p for p in parts if isinstance(p, tirx.Var)]
        if len(variables) == 1 and isinstance(y, int):
            rest = n.math.product([p for p in parts if p is not variables[0]])
            if isinstance(rest, int) and rest and y % rest == 0:
                n.math.require_same(variables[0], y // rest)
    n.math.require_same(a, b)


@op("Flatten", since=[1, 9, 11, 13, 21, 23, 24, 25])
def flatten(n: Node) -> Any:
    dims = n.shape(0)
    axis = n.int_attr("axis", 1)
    if not -len(dims) <= axis <= len(dims):
        raise n.broken(f"axis {axis} is out of range for rank {len(dims)}")
    axis += len(dims) if axis < 0 else 0
    return n.reshape(n.x(0), [n.math.product(dims[:axis]), n.math.product(dims[axis:])])


@op("Squeeze", since=[1, 11, 13, 21, 23, 24, 25])
def squeeze(n: Node) -> Any:
    dims = n.shape(0)
    if n.version >= 13 and n.has(1) and n.value(1).const is None:
        return n.reshape(n.x(0), _runtime_squeeze(n, dims))
    given = n.ints_attr("axes", None) if n.version < 13 else n.ints(1, "axes") if n.has(1) else None
    if given is None:
        for i, d in enumerate(dims):
            if n.math.compare("==", d, 1) is None:
                n.graph.check(lambda dims: dims[0] != 1, shape_expr([d]), place=f"{n.place} keeps axis {i}")
        axes = [i for i, d in enumerate(dims) if n.math.same(d, 1)]
    else:
        axes = n.axes(given, len(dims))
    for a in axes:
        n.math.require_same(dims[a], 1)
    return n.reshape(n.x(0), [d for i, d in enumerate(dims) if i not in axes])


def _length(n: Node, i: int) -> int:
    """Static number of elements of a list that a run computes."""
    dims = n.shape(i)
    length = dims[0] if dims else 1
    if len(dims) > 1 or not isinstance(length, int):
        raise n.refuse(f"input {i} whose length is only known at run time")
    return length


def _runtime_squeeze(n: Node, dims: tuple[Dim, ...]) -> list[Dim]:
    count = _length(n, 1)
    rank = len(dims)
    return bind_vector(n, lambda axes, e: kept_extents(axes, count, rank, e), n.x(1), dims=dims, count=rank - count)


def kept_extents(axes: Any, count: int, rank: int, extents: Any) -> list[Any]:
    """The extents of the axes that are not among `axes`, in order: rank - count of them."""
    gone = [tirx.Cast("int64", axis_mask(axes, count, rank, a)) for a in range(rank)]
    out = []
    for k in range(rank - count):
        value: Any = imm(-1, "int64")
        before: Any = imm(0, "int64")
        for a in range(rank):
            value = tirx.Select(tirx.all(gone[a] == 0, before == k), int64(extents[a]), value)
            before = before + (imm(1, "int64") - gone[a])
        out.append(value)
    return out


def _runtime_unsqueeze(n: Node, dims: tuple[Dim, ...]) -> list[Dim]:
    count = _length(n, 1)
    rank = len(dims) + count

    def build(axes: Any, extents: Any) -> list[Any]:
        out = []
        before: Any = imm(0, "int64")
        for a in range(rank):
            new = axis_mask(axes, count, rank, a)
            value: Any = imm(-1, "int64")
            for k in range(len(dims)):
                value = tirx.Select(before == k, int64(extents[k]), value)
            out.append(tirx.Select(new, imm(1, "int64"), value))
            before = before + tirx.Select(new, imm(0, "int64"), imm(1, "int64"))
        return out

    return bind_vector(n, build, n.x(1), dims=dims, count=rank)


@op("Unsqueeze", since=[1, 11, 13, 21, 23, 24, 25])
def unsqueeze(n: Node) -> Any:
    if n.version >= 13 and n.value(1).const is None:
        return n.reshape(n.x(0), _runtime_unsqueeze(n, n.shape(0)))
    given = n.ints_attr("axes") if n.version < 13 else n.ints(1, "axes")
    rank = n.rank(0) + len(given)
    axes = n.axes(given, rank)
    rest = iter(n.shape(0))
    return n.reshape(n.x(0), [1 if i in axes else next(rest) for i in range(rank)])


@op("Transpose", since=[1, 13, 21, 23, 24, 25])
def transpose(n: Node) -> Any:
    rank = n.rank(0)
    perm = n.ints_attr("perm", list(range(rank))[::-1])
    if sorted(perm) != list(range(rank)):
        raise n.broken(f"has perm {perm} for rank {rank}")
    return n.value(0) if perm == list(range(rank)) else relax.op.permute_dims(n.x(0), perm)


@op("Expand", since=[8, 13])
def expand(n: Node) -> Any:
    if not n.value(1).known:
        return _runtime_expand(n)
    target = n.dims(1, "shape")
    return n.broadcast_to(n.x(0), n.math.broadcast(n.shape(0), target))


def _runtime_expand(n: Node) -> Any:
    have = n.shape(0)
    length = _length(n, 1)
    rank = max(length, len(have))
    lead = rank - len(have)
    skip = rank - length

    def build(target: Any, dims: Any) -> list[Any]:
        out = []
        for a in range(rank):
            d = int64(dims[a - lead]) if a >= lead else imm(1, "int64")
            t = pick(target, a - skip, length) if a >= skip else imm(1, "int64")
            out.append(tirx.Select(d == 1, t, invalid_unless(tirx.any(t == 1, t == d), d)))
        return out

    out = bind_vector(n, build, n.x(1), dims=have, count=rank)
    # Where the input is not 1 the extent stays what it was, and is known.
    fixed = [
        have[a - lead] if a >= lead and isinstance(have[a - lead], int) and have[a - lead] != 1 else out[a]
        for a in range(rank)
    ]

    def body(t: Any, dims: Any) -> Any:
        def element(*i: Any) -> Any:
            return t(*[tirx.Select(t.shape[k] == 1, imm(0, "int64"), i[lead + k]) for k in range(len(have))])

        return te.compute(dims, element, name="expand")

    return n.te(body, n.x(0), shape_expr(fixed))


@op("Tile", since=[6, 13])
def tile(n: Node) -> Any:
    repeats = n.dims(1, "repeats")
    if len(repeats) != n.rank(0):
        raise n.broken(f"has {len(repeats)} repeats for rank {n.rank(0)}")
    if all(isinstance(r, int) and r == 1 for r in repeats):
        return n.value(0)
    have = n.shape(0)
    out = [n.math.mul(d, r) for d, r in zip(have, repeats, strict=True)]

    def body(x: Any, dims: Any) -> Any:
        return te.compute(dims, lambda *i: x(*[tirx.floormod(k, x.shape[a]) for a, k in enumerate(i)]), name="tile")

    return n.te(body, n.x(0), shape_expr(out))


@op("Concat", since=[4, 11, 13])
def concat(n: Node) -> Any:
    dtype = n.dtype(0)
    rank = n.rank(0)
    axis = n.axis(n.int_attr("axis"), rank)
    for i in range(1, len(n.inputs)):
        if n.dtype(i) != dtype or n.rank(i) != rank:
            raise n.broken("has inputs of different types or ranks")
    if len(n.inputs) == 1:
        return n.value(0)
    common = list(n.shape(0))
    for i in range(1, len(n.inputs)):
        common = [d if a == axis else n.math.require_same(d, n.shape(i)[a]) for a, d in enumerate(common)]
    parts = []
    for i, x in enumerate(n.xs()):
        want = [n.shape(i)[a] if a == axis else d for a, d in enumerate(common)]
        parts.append(n.graph.with_extents(x, want))
    return relax.op.concat(parts, axis)


@op("Split", since=[2, 11, 13, 18])
def split(n: Node) -> Any:
    dims = n.shape(0)
    axis = n.axis(n.int_attr("axis", 0), len(dims))
    outputs = len(n.proto.output)
    if n.version < 13 and n.has_attr("split"):
        sizes: list[Dim] = list(n.ints_attr("split"))
    elif n.version >= 13 and n.has(1):
        sizes = n.dims(1, "split") if n.value(1).known else _runtime_sizes(n, dims[axis])
    else:
        count = n.int_attr("num_outputs", outputs) if n.version >= 18 else outputs
        each = n.math.ceildiv(dims[axis], count)
        if n.version < 18 and isinstance(dims[axis], int) and dims[axis] % count:
            raise n.broken(f"splits {dims[axis]} into {count} equal parts")
        last = n.math.sub(dims[axis], n.math.mul(each, count - 1))
        if n.math.compare("<", last, 0) is not False:
            raise n.refuse("of a dynamic dimension into parts whose sizes are not known")
        sizes = [each] * (count - 1) + [last]
    if len(sizes) != outputs:
        raise n.broken(f"has {outputs} outputs for {len(sizes)} parts")
    total: Dim = 0
    for s in sizes:
        total = n.math.add(total, s)
    if n.version < 13 or not n.has(1) or n.value(1).known:
        n.math.require_same(total, dims[axis])
    out = []
    start: Dim = 0
    for s in sizes:
        out.append(take_slice(n, n.x(0), axis, start, s))
        start = n.math.add(start, s)
    return out


def _runtime_sizes(n: Node, extent: Dim) -> list[Dim]:
    """Sizes that a run computes; it refuses those that do not add up to the extent."""
    count = _length(n, 1)

    def build(split: Any, dims: Any) -> list[Any]:
        sizes = [pick(split, k, count) for k in range(count)]
        total: Any = imm(0, "int64")
        for s in sizes:
            total = total + s
        return [invalid_unless(total == dims[0], s) for s in sizes]

    return bind_vector(n, build, n.x(1), dims=[extent], count=count)


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
    count = _length(n, 1)
    given = [n.x(i) for i in range(1, 5) if n.has(i)]
    has_axes, has_steps = n.has(3), n.has(4)

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
                begin = tirx.max(low, tirx.min(begin, high))
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
    out = bind_vector(n, lambda *t: [c for _, _, c in normal(*t)], *given, dims=dims, count=rank)
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
        r = range(extent)[slice(start, end if not (step < 0 and end < -extent) else None, step)]
        return (r.start if len(r) else 0), len(r)
    low, high = (0, extent) if step > 0 else (-1, n.math.sub(extent, 1))
    start, end = (_bound(n, b, extent, low, high) for b in (start, end))
    if step > 0:
        length = n.math.sub(end, start)
        count = n.math.ceildiv(length, step)
    else:
        length = n.math.sub(start, end)
        count = n.math.ceildiv(length, -step)
    count = n.math.max(count, 0)
    return start, count


def _bound(n: Node, value: Dim, extent: Dim, low: Dim, high: Dim) -> Dim:
    """A slice's bound, counted from the beginning, within [low, high]."""
    if isinstance(value, int) and abs(value) >= 10**9:
        return low if value < 0 else high  # it only means "from the beginning" or "to the end"
    return _clamp(n, _from_end(n, value, extent), low, high)


def _from_end(n: Node, value: Dim, extent: Dim) -> Dim:
    negative = n.math.compare("<", value, 0)
    if negative is None:
        raise n.refuse("with a bound that may be negative or not")
    return n.math.add(value, extent) if negative else value


def _clamp(n: Node, value: Dim, low: Dim, high: Dim) -> Dim:
    return (
        n.math.max(low, n.math.min(value, high))
        if n.math.compare(">=", value, low) is not True
        else n.math.min(value, high)
    )


# ---- gather and scatter


@op("Gather", since=[1, 11, 13])
def gather(n: Node) -> Any:
    axis = n.axis(n.int_attr("axis", 0), n.rank(0))
    extent = n.shape(0)[axis]
    value = n.value(1)
    if value.const is not None:
        index = value.const.astype(np.int64)
        if isinstance(extent, int):
            if index.size and (index.min() < -extent or index.max() >= extent):
                raise n.broken(f"has an index out of range for {extent} elements")
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
    data_dims, index_dims = n.shape(0), n.shape(1)
    out = [*data_dims[:axis], *index_dims, *data_dims[axis + 1 :]]

    def body(data: Any, indices: Any, dims: Any) -> Any:
        def element(*i: Any) -> Any:
            at = wrap_index(indices(*i[axis : axis + len(index_dims)]), data.shape[axis])
            return data(*i[:axis], at, *i[axis + len(index_dims) :])

        return te.compute(dims, element, name="gather")

    return n.te(body, n.x(0), n.x(1), shape_expr(out))


def wrap_index(index: Any, extent: Any) -> Any:
    """A possibly negative index as a valid one, in int64; what is out of range is clamped, so that no memory outside is read."""
    at = tirx.Cast("int64", index)
    at = tirx.Select(at < 0, at + extent, at)
    return tirx.max(tirx.min(at, extent - 1), imm(0, "int64"))


@op("GatherElements", since=[11, 13])
def gather_elements(n: Node) -> Any:
    axis = n.axis(n.int_attr("axis", 0), n.rank(0))
    n.graph.limit_index(n.value(1), n.shape(0)[axis])

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
    depth = index[-1]
    if not isinstance(depth, int) or not 1 <= depth <= len(data) - batch:
        raise n.broken(f"has indices of depth {depth} for rank {len(data)} with {batch} batch dimensions")
    out = [*index[:-1], *data[batch + depth :]]
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


# ---- making and padding


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

    length = bind_vector(n, build, *bounds, count=1)

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
    mode = n.str_attr("mode", "constant")
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
    count = _length(n, 1) // 2
    axes_given = n.version >= 18 and n.has(3)
    given = [n.x(1), *([n.x(3)] if axes_given else [])]

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


@op("DepthToSpace", since=[1, 11, 13, 28])
def depth_to_space(n: Node) -> Any:
    b = n.int_attr("blocksize")
    if n.rank(0) != 4 or b < 1:
        raise n.broken(f"takes blocks of {b} from a tensor of rank {n.rank(0)}")
    count, c, h, w = n.shape(0)
    inner = n.math.floordiv(c, b * b)
    if n.str_attr("mode", "DCR") == "DCR":
        split_dims, perm = [count, b, b, inner, h, w], [0, 3, 4, 1, 5, 2]
    else:
        split_dims, perm = [count, inner, b, b, h, w], [0, 1, 4, 2, 5, 3]
    t = n.emit(relax.op.permute_dims(n.reshape(n.x(0), split_dims), perm))
    return n.reshape(t, [count, inner, n.math.mul(h, b), n.math.mul(w, b)])


@op("SpaceToDepth", since=[1, 13, 28])
def space_to_depth(n: Node) -> Any:
    b = n.int_attr("blocksize")
    if n.rank(0) != 4 or b < 1:
        raise n.broken(f"takes blocks of {b} from a tensor of rank {n.rank(0)}")
    count, c, h, w = n.shape(0)
    hb, wb = n.math.floordiv(h, b), n.math.floordiv(w, b)
    t = n.reshape(n.x(0), [count, c, hb, b, wb, b])
    column = n.version >= 28 and n.str_attr("mode", "DCR") == "CRD"
    t = n.emit(relax.op.permute_dims(t, [0, 1, 3, 5, 2, 4] if column else [0, 3, 5, 1, 2, 4]))
    return n.reshape(t, [count, n.math.mul(c, b * b), hb, wb])
