"""Sequences and optionals whose structure is known at import."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from .._dims import Dim
from .._node import Node
from .._registry import op
from .._values import Value
from .indexing import part_sizes, take_slice


def _sequence(items: list[Value], dtype: str = "") -> Value:
    return Value(items[0].dtype if items else dtype or "float32", (), items=items)


@op("SequenceEmpty", since=11)
def sequence_empty(n: Node) -> Any:
    return _sequence([], n.dtype_attr("dtype", 1))


@op("SequenceConstruct", since=11)
def sequence_construct(n: Node) -> Any:
    return _sequence([n.value(i) for i in range(len(n.inputs))])


def _position(n: Node, i: int, length: int, *, last: int) -> int:
    at = int(n.scalar(i, "position"))
    if not -length <= at <= last:
        raise n.broken(f"has position {at} in a sequence of {length}")
    return at + length if at < 0 else at


@op("SequenceInsert", since=11)
def sequence_insert(n: Node) -> Any:
    items = list(n.sequence(0))
    items.insert(_position(n, 2, len(items), last=len(items)) if n.has(2) else len(items), n.value(1))
    return _sequence(items)


@op("SequenceErase", since=11)
def sequence_erase(n: Node) -> Any:
    items = list(n.sequence(0))
    if not items:
        raise n.broken("erases from an empty sequence")
    dtype = items[0].dtype
    del items[_position(n, 1, len(items), last=len(items) - 1) if n.has(1) else -1]
    return _sequence(items, dtype)


@op("SequenceAt", since=11)
def sequence_at(n: Node) -> Any:
    items = n.sequence(0)
    return items[_position(n, 1, len(items), last=len(items) - 1)]


@op("SequenceLength", since=11)
def sequence_length(n: Node) -> Any:
    return np.array(len(n.sequence(0)), np.int64)


@op("SplitToSequence", since=[11, 24])
def split_to_sequence(n: Node) -> Any:
    axis = n.axis(n.int_attr("axis", 0), n.rank(0))
    dims = n.shape(0)
    extent = dims[axis]
    keep = n.flag("keepdims", 1) or n.has(1)
    if n.has(1) and n.value(1).rank == 1:
        sizes = part_sizes(n, extent)
    else:
        each = int(n.scalar(1, "split")) if n.has(1) else 1
        if not isinstance(extent, int):
            raise n.refuse("of a dynamic extent")
        if each < 1:
            raise n.broken(f"splits into parts of {each}")
        sizes = [min(each, extent - start) for start in range(0, extent, each)]
    items = []
    start: Dim = 0
    for size in sizes:
        part = take_slice(n, n.x(0), axis, start, size)
        if not keep:
            part = n.reshape(part, [d for a, d in enumerate(dims) if a != axis])
        items.append(n.graph.wrap(part, n.place))
        start = n.math.add(start, size)
    return _sequence(items, n.dtype(0))


@op("ConcatFromSequence", since=11)
def concat_from_sequence(n: Node) -> Any:
    items = n.sequence(0)
    if not items:
        raise n.broken("joins an empty sequence")
    xs = [n.graph.expr(v) for v in items]
    axis = n.int_attr("axis")
    if n.flag("new_axis"):
        rank = items[0].rank + 1
        axis = n.axis(axis, rank)
        xs = [n.reshape(x, [*v.shape[:axis], 1, *v.shape[axis:]]) for x, v in zip(xs, items, strict=True)]
    else:
        axis = n.axis(axis, items[0].rank)
    return relax.op.concat(xs, axis) if len(xs) > 1 else xs[0]


# ---- optionals: a value, or Value(absent=True)


@op("Optional", since=[15, 28])
def optional(n: Node) -> Any:
    return n.inputs[0] if n.has(0) else Value("float32", (), absent=True)


@op("OptionalHasElement", since=[15, 18, 28])
def optional_has_element(n: Node) -> Any:
    given = n.inputs[0] if n.inputs else None
    return np.array(given is not None and not given.absent)


@op("OptionalGetElement", since=[15, 18, 28])
def optional_get_element(n: Node) -> Any:
    given = n.inputs[0] if n.inputs else None
    if given is None or given.absent:
        raise n.broken("takes the element of an empty optional")
    return given
