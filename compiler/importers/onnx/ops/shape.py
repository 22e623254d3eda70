"""Operators that give the same elements another shape or order: reshape, transpose, expand, tile, concatenate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from maas_rt._plan import MAX_RANK

from .._dims import Dim
from .._exprs import shape_expr
from .._node import Node
from .._registry import op
from .._values import Value
from ._runtime import axes_mask, bind_vector, check_axes, int64, invalid_unless, list_length, pick, vector
from ._targets import flattened, permutation, reshaped
from ._te import imm
from .symbolic import shape_of


@op("Shape", since=[1, 13, 15, 19, 21, 23, 24, 25])
def shape(n: Node) -> Any:
    return Value.of_symbols(shape_of(n), "int64", n.place)


@op("Size", since=[1, 13, 19, 21, 23, 24, 25])
def size(n: Node) -> Any:
    out = np.empty((), dtype=object)
    out[()] = n.math.product(n.shape(0))
    return Value.of_symbols(out, "int64", n.place)


@op("Reshape", since=[5, 13, 14, 19, 21, 23, 24, 25])
def reshape(n: Node) -> Any:
    have = n.shape(0)
    allowzero = n.flag("allowzero")
    if not n.value(1).known:
        return n.reshape(n.x(0), _runtime_shape(n, have, allowzero))
    return n.reshape(n.x(0), reshaped(n, have, n.dims(1, "shape")))


def _runtime_shape(n: Node, have: tuple[Dim, ...], allowzero: bool) -> list[Dim]:
    """The extents of a target shape that a run computes, with 0 and -1 resolved there."""
    length = list_length(n, 1)

    one = imm(1, "int64")

    def resolve(target: Any, dims: Any) -> list[Any]:
        """The extents but for -1."""
        out = []
        for k in range(length):
            t = pick(target, k, length)
            out.append(tirx.Select(t == 0, int64(dims[k]), t) if not allowzero and k < len(have) else t)
        return out

    def measure(wanted: Any, dims: Any) -> list[Any]:
        """All elements, those of the extents that are known, and how many are not."""
        total, known, unknown = one, one, imm(0, "int64")
        for d in dims:
            total = total * d
        for k in range(length):
            known = known * tirx.Select(wanted(k) == -1, one, wanted(k))
            unknown = unknown + tirx.Cast("int64", wanted(k) == -1)
        return [total, known, unknown]

    def solve(wanted: Any, measured: Any, _: Any) -> list[Any]:
        """What -1 stands for, and whether all fits."""
        total, known, unknown = (measured(i) for i in range(3))
        rest = tirx.floordiv(total, tirx.max(known, one))
        # What -1 stands for beside an extent of 0 is not to be told, nor is what several stand for.
        fits = tirx.any(
            tirx.all(unknown == 0, known == total), tirx.all(unknown == 1, known != 0, known * rest == total)
        )
        if not allowzero:
            fits = tirx.all(fits, *[wanted(k) != 0 for k in range(len(have), length)])
        return [rest, fits]

    def build(wanted: Any, solved: Any, _: Any) -> list[Any]:
        return [
            invalid_unless(solved(1) == 1, tirx.Select(wanted(k) == -1, solved(0), wanted(k))) for k in range(length)
        ]

    zero = "0 for no elements" if allowzero else "0 for an extent that stays"
    says = (
        f"is given a shape that does not fit its input: its extents ({zero}) must come to as many elements, "
        "and at most one, beside none of 0, may be -1 for what is left"
    )
    if not length:
        return []
    wanted = vector(n, resolve, n.x(1), dims=have, name="wanted")
    measured = vector(n, measure, wanted, dims=have, name="measured")
    solved = vector(n, solve, wanted, measured, name="solved")
    return bind_vector(n, build, wanted, solved, count=length, says=says)


@op("Flatten", since=[1, 9, 11, 13, 21, 23, 24, 25])
def flatten(n: Node) -> Any:
    return n.reshape(n.x(0), flattened(n, n.shape(0)))


@op("Squeeze", since=[1, 11, 13, 21, 23, 24, 25])
def squeeze(n: Node) -> Any:
    dims = n.shape(0)
    if n.version >= 13 and n.has(1) and n.value(1).const is None:
        return n.reshape(n.x(0), _runtime_squeeze(n, dims))
    given = n.ints_attr("axes", None) if n.version < 13 else n.ints(1, "axes") if n.has(1) else None
    if given is None:
        for i, d in enumerate(dims):
            if n.math.compare("==", d, 1) is None:
                n.assume(lambda dims: dims[0] != 1, shape_expr([d]), says=f"keeps axis {i}")
        axes = [i for i, d in enumerate(dims) if n.math.same(d, 1)]
    else:
        axes = n.axes(given, len(dims))
    for a in axes:
        n.math.require_same(dims[a], 1)
    return n.reshape(n.x(0), [d for i, d in enumerate(dims) if i not in axes])


def _runtime_squeeze(n: Node, dims: tuple[Dim, ...]) -> list[Dim]:
    count = list_length(n, 1)
    rank = len(dims)
    if count > rank:
        raise n.broken(f"drops {count} axes of an input of rank {rank}")
    check_axes(n, 1, rank)
    ones = [(a, e) for a, e in enumerate(dims) if not n.math.same(e, 1)]

    def dropped(mask: Any, extents: Any) -> Any:
        return tirx.all(*[tirx.any(mask(a) == 0, extents[k] == 1) for k, (a, _) in enumerate(ones)])

    if not count:
        return list(dims)
    mask = axes_mask(n, 1, count, rank)
    if ones:
        n.check(dropped, mask, shape_expr([e for _, e in ones]), says="is to drop an axis whose extent is not 1")
    return kept_extents(n, mask, dims, count)


def kept_extents(n: Node, mask: Any, dims: Sequence[Dim], count: int) -> list[Dim]:
    """The extents of the axes that are not among the `count` ones of a mask, in order."""
    rank = len(dims)
    places = vector(n, lambda mask, _: _places(mask, rank), mask, name="kept_places")

    def build(mask: Any, places: Any, extents: Any) -> list[Any]:
        out = []
        for k in range(rank - count):
            value: Any = imm(-1, "int64")
            for a in range(rank):
                value = tirx.Select(tirx.all(mask(a) == 0, places(a) == k), int64(extents[a]), value)
            out.append(value)
        return out

    return bind_vector(n, build, mask, places, dims=dims, count=rank - count)


def _places(mask: Any, rank: int) -> list[Any]:
    """For each axis, how many before it are not in the mask."""
    out: list[Any] = [imm(0, "int64")]
    for a in range(rank - 1):
        out.append(out[-1] + imm(1, "int64") - mask(a))
    return out


def _runtime_unsqueeze(n: Node, dims: tuple[Dim, ...]) -> list[Dim]:
    count = list_length(n, 1)
    rank = len(dims) + count
    if rank > MAX_RANK:
        raise n.refuse(f"to {rank} axes")
    check_axes(n, 1, rank)

    if not count:
        return list(dims)
    mask = axes_mask(n, 1, count, rank)
    places = vector(n, lambda mask, _: _places(mask, rank), mask, name="kept_places")

    def build(mask: Any, places: Any, extents: Any) -> list[Any]:
        out = []
        for a in range(rank):
            value: Any = imm(-1, "int64")
            for k in range(len(dims)):
                value = tirx.Select(places(a) == k, int64(extents[k]), value)
            out.append(tirx.Select(mask(a) == 1, imm(1, "int64"), value))
        return out

    return bind_vector(n, build, mask, places, dims=dims, count=rank)


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
    perm = permutation(n, n.rank(0))
    return n.value(0) if perm == sorted(perm) else relax.op.permute_dims(n.x(0), perm)


@op("Expand", since=[8, 13])
def expand(n: Node) -> Any:
    if not n.value(1).known:
        return _runtime_expand(n)
    target = n.dims(1, "shape")
    have = n.shape(0)
    lead = len(target) - len(have)
    # An open extent that meets a known one is 1, or equal to it: the run finds out.
    open_axes = [a for a, d in enumerate(have) if a + lead >= 0 and _may_be_one(n, d, target[a + lead])]
    if open_axes:
        return _expand_open(n, open_axes, target)
    return n.broadcast_to(n.x(0), n.math.broadcast(have, target))


def _may_be_one(n: Node, have: Dim, target: Dim) -> bool:
    return not isinstance(have, int) and isinstance(target, int) and target != 1 and not n.math.proves(have > 1)


def _expand_open(n: Node, axes: list[int], target: list[Dim]) -> Any:
    """Expand of a tensor whose extent on `axes` is an expression of symbols, to numbers."""
    have = n.shape(0)
    rank = max(len(have), len(target))
    target = [1] * (rank - len(target)) + list(target)
    lead = rank - len(have)
    for a in axes:
        want = target[a + lead]
        refuse = n.check if n.math.depends_on_run(have[a]) else n.assume
        refuse(
            lambda dims, want=want: tirx.any(dims[0] == 1, dims[0] == want),
            shape_expr([have[a]]),
            says=f"has an input whose axis {a} is of extent 1 or {want}",
        )
    known = [1 if a in axes else d for a, d in enumerate(have)]
    out = n.math.broadcast(known, target)

    def body(t: Any, dims: Any) -> Any:
        def element(*i: Any) -> Any:
            at = []
            for a, d in enumerate(have):
                last = t.shape[a] - 1
                at.append(
                    tirx.min(i[a + lead], last) if a in axes else 0 if isinstance(d, int) and d == 1 else i[a + lead]
                )
            return t(*at)

        return te.compute(dims, element, name="expand")

    return n.te(body, n.x(0), shape_expr(out))


def _runtime_expand(n: Node) -> Any:
    have = n.shape(0)
    length = list_length(n, 1)
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

    says = "is given a shape that its input does not broadcast to"
    out = bind_vector(n, build, n.x(1), dims=have, count=rank, says=says)
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


@op("DepthToSpace", since=[1, 11, 13, 28])
def depth_to_space(n: Node) -> Any:
    b = n.int_attr("blocksize")
    if n.rank(0) != 4 or b < 1:
        raise n.broken(f"takes blocks of {b} from a tensor of rank {n.rank(0)}")
    count, c, h, w = n.shape(0)
    inner = n.math.floordiv(c, b * b)
    if n.choice("mode", "DCR", "CRD") == "DCR":
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
    column = n.version >= 28 and n.choice("mode", "DCR", "CRD") == "CRD"
    t = n.emit(relax.op.permute_dims(t, [0, 1, 3, 5, 2, 4] if column else [0, 3, 5, 1, 2, 4]))
    return n.reshape(t, [count, n.math.mul(c, b * b), hb, wb])
