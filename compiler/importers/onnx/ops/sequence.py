"""Sequences and optionals whose structure is known at import."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from tvm import relax

from .._dims import Dim
from .._node import Node
from .._registry import op
from .._values import DTYPES, Value
from .indexing import gather, part_sizes, take_slice


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
    if n.value(1).const is None:
        return _picked(n, items)
    return items[_position(n, 1, len(items), last=len(items) - 1)]


def _picked(n: Node, items: list[Value]) -> Any:
    """The item at a position that the run gives: one of a stack of all."""
    if not items:
        raise n.broken("takes an item of an empty sequence")
    if len({v.dtype for v in items}) != 1 or any(v.rank != items[0].rank or v.items is not None for v in items):
        raise n.refuse("position that is computed at run time, in a sequence of items that differ")
    dims = items[0].shape
    if any(not n.math.certain(a, b) for v in items[1:] for a, b in zip(dims, v.shape, strict=True)):
        raise n.refuse("position that is computed at run time, in a sequence of items whose shapes differ")
    stack = relax.op.concat([n.reshape(n.graph.expr(v), [1, *dims]) for v in items], 0)
    return gather(n.with_arguments(n.emit(stack), n.graph.wrap(n.reshape(n.x(1), []), n.place), axis=0))


@op("SequenceMap", since=17)
def sequence_map(n: Node) -> Any:
    """body(item, ...) for each item of the first sequence; further sequences give the item of the same number, tensors themselves."""
    body: onnx.GraphProto = n.attr("body")
    length = len(n.sequence(0))
    if any(v is None or (v.items is not None and len(v.items) != length) for v in n.inputs):
        raise n.broken(f"has further sequences that are not {length} long, as the first is")
    results: list[list[Value]] = [[] for _ in body.output]
    for number in range(length):
        given = [v if v.items is None else v.items[number] for v in n.inputs if v is not None]
        with n.graph.noise.iteration(number):
            made = n.subgraph(body, given, str(number))
        for column, v in zip(results, made, strict=True):
            column.append(v)
    if any(v.poison for column in results for v in column):
        return [Value("float32", (), poison=True) for _ in n.proto.output]
    declared = [DTYPES.get(info.type.tensor_type.elem_type, "") for info in body.output]
    return [_sequence(column, dtype) for column, dtype in zip(results, declared, strict=True)]


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
