"""Evaluation of shape arithmetic at import: nodes whose inputs are constants or integers expressed by symbols.

`Shape -> Gather -> Concat -> Reshape` of real exports is numpy on object arrays here; what cannot be decided for all values
of the symbols returns None, and the node is converted for the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from .._dims import Dim
from .._node import Node
from .._registry import shape_op
from .._values import is_float, is_int
from ._targets import flattened, permutation, reduced_axes, reshaped
from .indexing import first_bound, slice_bounds, split_sizes

Array = npt.NDArray[Any]


_MAX_GATHERED = 1 << 24


def _symbolic(n: Node) -> bool:
    """Whether some input holds expressions (else constant folding does the node) and all of them are integers."""
    return any(v is not None and v.sym is not None for v in n.inputs)


def _array(items: list[Dim], shape: tuple[int, ...]) -> Array:
    out = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        out[i] = item
    return out.reshape(shape)


def _items(n: Node, i: int) -> Array:
    e = n.value(i).elements
    return e if e.dtype == object else _array([int(v) for v in e.reshape(-1)], e.shape)


def _only_whole_numbers(n: Node) -> bool:
    """Whether all constants among the inputs are whole numbers: extents may be carried as floating point for a while."""
    for v in n.inputs:
        if v is not None and v.const is not None and is_float(v.dtype):
            c = v.const.astype(np.float64)
            if not np.isfinite(c).all() or (c != np.rint(c)).any() or (np.abs(c) > 1 << 24).any():
                return False
    return True


def _map(n: Node, function: Callable[..., Dim | None], *arrays: Array) -> Array | None:
    """Elementwise with broadcasting; None as soon as one element is None."""
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    wide = [np.broadcast_to(a, shape).reshape(-1) for a in arrays]
    out: list[Dim] = []
    for items in zip(*wide, strict=True):
        r = function(*items)
        if r is None:
            return None
        out.append(r)
    return _array(out, shape)


def _arithmetic(function: Callable[[Node, Dim, Dim], Dim | None]) -> Callable[[Node], Array | None]:
    def evaluate(n: Node) -> Array | None:
        if not _symbolic(n) or not _only_whole_numbers(n) or (n.op in ("Div", "Mod") and not is_int(n.dtype(0))):
            return None
        return _map(n, lambda a, b: function(n, a, b), _items(n, 0), _items(n, 1))

    return evaluate


def _div(n: Node, a: Dim, b: Dim) -> Dim | None:
    # Truncation is flooring where both are known not to be negative.
    if n.math.compare(">=", a, 0) and n.math.compare(">", b, 0):
        return n.math.floordiv(a, b)
    return None


def _mod(n: Node, a: Dim, b: Dim) -> Dim | None:
    if n.math.compare(">", b, 0) and (not n.flag("fmod") or n.math.compare(">=", a, 0)):
        return n.math.floormod(a, b)
    return None


shape_op("Add")(_arithmetic(lambda n, a, b: n.math.add(a, b)))
shape_op("Sub")(_arithmetic(lambda n, a, b: n.math.sub(a, b)))
shape_op("Mul")(_arithmetic(lambda n, a, b: n.math.mul(a, b)))
shape_op("Div")(_arithmetic(_div))
shape_op("Mod")(_arithmetic(_mod))


@shape_op("Max", "Min")
def extremum(n: Node) -> Array | None:
    if not _symbolic(n) or not _only_whole_numbers(n):
        return None
    pick = n.math.max if n.op == "Max" else n.math.min
    out: Array | None = _items(n, 0)
    for i in range(1, len(n.inputs)):
        assert out is not None
        out = _map(n, pick, out, _items(n, i))
    return out


@shape_op("Neg")
def neg(n: Node) -> Array | None:
    return _map(n, lambda a: n.math.sub(0, a), _items(n, 0)) if _symbolic(n) else None


@shape_op("Abs")
def abs_(n: Node) -> Array | None:
    return _map(n, lambda a: a if n.math.compare(">=", a, 0) else None, _items(n, 0)) if _symbolic(n) else None


def _comparison(operator: str) -> Callable[[Node], Array | None]:
    def evaluate(n: Node) -> Array | None:
        if not _symbolic(n) or not _only_whole_numbers(n):
            return None
        out = _map(n, lambda a, b: n.math.compare(operator, a, b), _items(n, 0), _items(n, 1))
        return None if out is None else out.astype(bool)

    return evaluate


shape_op("Equal")(_comparison("=="))
shape_op("Less")(_comparison("<"))
shape_op("LessOrEqual")(_comparison("<="))
shape_op("Greater")(_comparison(">"))
shape_op("GreaterOrEqual")(_comparison(">="))


@shape_op("Where")
def where(n: Node) -> Array | None:
    condition = n.value(0).const
    if condition is None or not _symbolic(n) or not _only_whole_numbers(n):
        return None
    a, b = _items(n, 1), _items(n, 2)
    return _map(n, lambda c, p, q: p if c else q, condition.astype(object), a, b)


@shape_op("Cast")
def cast(n: Node) -> Array | None:
    """Extents are far below what float32 holds exactly."""
    if not _symbolic(n):
        return None
    to = n.dtype_attr("to", stored=True)
    return n.value(0).elements if to in ("int32", "int64", "float32", "float64") else None


@shape_op("Floor", "Ceil", "Round")
def whole(n: Node) -> Array | None:
    return n.value(0).elements if _symbolic(n) else None


@shape_op("Identity")
def identity(n: Node) -> Array | None:
    return n.value(0).elements if n.has(0) else None


@shape_op("Gather")
def gather(n: Node) -> Array | None:
    indices = n.value(1).const
    data = n.value(0).elements
    if indices is None:
        return None
    axis = n.axis(n.int_attr("axis", 0), data.ndim)
    if data.size * indices.size > _MAX_GATHERED:
        return None
    if indices.size and (indices.min() < -data.shape[axis] or indices.max() >= data.shape[axis]):
        raise n.broken(f"has an index out of range for {data.shape[axis]} elements")
    return np.asarray(np.take(data, indices.astype(np.int64), axis=axis), dtype=data.dtype)


@shape_op("Concat")
def concat(n: Node) -> Array | None:
    if not _symbolic(n) or not _only_whole_numbers(n):
        return None
    return np.concatenate([_items(n, i) for i in range(len(n.inputs))], axis=n.int_attr("axis"))


@shape_op("Unsqueeze")
def unsqueeze(n: Node) -> Array | None:
    axes = n.ints_attr("axes") if n.version < 13 else n.ints(1) if n.value(1).const is not None else None
    if axes is None:
        return None
    data = n.value(0).elements
    return np.expand_dims(data, tuple(n.axes(axes, data.ndim + len(axes))))


@shape_op("Squeeze")
def squeeze(n: Node) -> Array | None:
    data = n.value(0).elements
    if n.version < 13:
        axes = n.ints_attr("axes", None)
    else:
        axes = n.ints(1) if n.has(1) else None
    return np.squeeze(data, None if axes is None else tuple(n.axes(axes, data.ndim)))


@shape_op("Reshape")
def reshape(n: Node) -> Array | None:
    target = n.value(1).const
    if target is None:
        return None
    data = n.value(0).elements
    dims = reshaped(n, data.shape, [int(d) for d in target.reshape(-1)])
    return data.reshape([int(d) for d in dims])


@shape_op("Flatten")
def flatten(n: Node) -> Array | None:
    data = n.value(0).elements
    return data.reshape([int(d) for d in flattened(n, data.shape)])


@shape_op("Transpose")
def transpose(n: Node) -> Array | None:
    data = n.value(0).elements
    return np.transpose(data, permutation(n, data.ndim)) if _symbolic(n) else None


@shape_op("Slice")
def slice_(n: Node) -> Array | None:
    data = n.value(0).elements
    bounds = slice_bounds(n, need_const=True)
    if bounds is None:
        return None
    index: list[slice] = [slice(None)] * data.ndim
    for axis, start, end, step in bounds:
        index[axis] = slice(first_bound(start, data.shape[axis], step), end, step)
    return data[tuple(index)]


@shape_op("Split")
def split(n: Node) -> list[Array] | None:
    if not _symbolic(n):
        return None
    data = n.value(0).elements
    axis = n.axis(n.int_attr("axis", 0), data.ndim)
    if n.version >= 13 and n.has(1) and n.value(1).const is None:
        return None
    sizes = [int(size) for size in split_sizes(n, data.shape[axis])]
    return list(np.split(data, np.cumsum(sizes)[:-1], axis=axis))


@shape_op("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def reduce(n: Node) -> Array | None:
    data = n.value(0).elements
    if not _symbolic(n) or data.ndim != 1 or (n.has(1) and n.value(1).const is None) or reduced_axes(n) is None:
        return None
    step = {"ReduceProd": n.math.mul, "ReduceSum": n.math.add, "ReduceMax": n.math.max, "ReduceMin": n.math.min}[n.op]
    items = list(_items(n, 0))
    if not items:
        return None
    out = items[0]
    for item in items[1:]:
        out = step(out, item)
    return _array([out], (1,) if n.flag("keepdims", 1) else ())


@shape_op("Shape")
def shape(n: Node) -> Array:
    return shape_of(n)


def shape_of(n: Node) -> Array:
    """Operator Shape of anything: extents are known as expressions even where the elements are not."""
    dims = list(n.shape(0))
    rank = len(dims)
    start = n.int_attr("start", 0) if n.version >= 15 else 0
    end = n.int_attr("end", rank) if n.version >= 15 else rank
    start = min(max(start + rank if start < 0 else start, 0), rank)
    end = min(max(end + rank if end < 0 else end, 0), rank)
    picked = dims[start:end] if start < end else []
    return _array(picked, (len(picked),))


@shape_op("Size")
def size(n: Node) -> Array:
    return _array([n.math.product(n.shape(0))], ())


@shape_op("Range")
def range_(n: Node) -> Array | None:
    if not _symbolic(n) or not _only_whole_numbers(n):
        return None
    start, limit, step = (_items(n, i).reshape(-1)[0] for i in range(3))
    length = n.math.sub(limit, start)
    if step == 1 and isinstance(length, int):
        return _array([n.math.add(start, k) for k in range(max(length, 0))], (max(length, 0),))
    return None


@shape_op("Expand")
def expand(n: Node) -> Array | None:
    target = n.value(1).const
    if target is None or not _symbolic(n) or int(np.prod(target)) > 64:
        return None
    data = _items(n, 0)
    return np.array(np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(int(d) for d in target))))


@shape_op("ConstantOfShape")
def constant_of_shape(n: Node) -> Array | None:
    dims = n.value(0).const
    if dims is None or int(np.prod(dims)) > 1 << 16 or (dims < 0).any():
        return None
    if not n.has_attr("value"):
        return np.zeros(tuple(int(d) for d in dims), np.float32)
    value = n.graph.tensor(n.attr("value"), n.place).const
    return None if value is None else np.full(tuple(int(d) for d in dims), value.reshape(-1)[0], value.dtype)
