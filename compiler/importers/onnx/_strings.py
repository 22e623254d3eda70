"""Strings that only a run knows: a string value's expression is uint8 with a last axis of bytes, UTF-8, padded with zeros.

Its `dtype` is STRING and its `shape` that of the strings, without the axis of bytes. Converters that know of strings are registered
with `string_op`; operators that only move elements are applied to the strings' positions, and the rows are fetched from there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tvm import relax, te, tirx

from maas_rt._strings import encode_strings

from ._dims import Dim
from ._node import constant, dims_of, shape_expr
from ._values import STRING, Value

if TYPE_CHECKING:
    from ._node import Node

__all__ = ["MOVED", "bytes_of", "canonical", "is_string", "moved", "string_value", "width_of"]

# Operators whose results are elements of input 0, wherever they stand.
MOVED = frozenset(
    """Compress DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Reshape Slice Split Squeeze Tile Transpose
    Unsqueeze""".split()
)


def is_string(value: Value | None) -> bool:
    return value is not None and not value.poison and value.dtype == STRING


def string_value(x: Any, place: str) -> Value:
    """uint8 [..., bytes] as a value of strings [...]."""
    return Value(STRING, dims_of(x)[:-1], expr=x, origin=place)


def bytes_of(value: Value) -> Any:
    """The expression of a string value."""
    if value.expr is None:
        value.expr = constant(encode_strings(value.const))
    return value.expr


def width_of(x: Any) -> Dim:
    return dims_of(x)[-1]


def canonical(n_te: Callable[..., Any], bind: Callable[[Any], Dim], reshape: Callable[..., Any], x: Any) -> Any:
    """The strings with an axis of bytes as long as the longest of them, at least 1: what encode_strings gives."""
    dims = dims_of(x)
    count: Dim = 1
    for d in dims[:-1]:
        count = count * d
    rows = reshape(x, [count, dims[-1]])

    def widest(rows: Any) -> Any:
        i = te.reduce_axis((0, rows.shape[0]), name="i")
        k = te.reduce_axis((0, rows.shape[1]), name="k")
        used = tirx.Select(rows(i, k) != _byte(0), tirx.Cast("int64", k.var) + 1, tirx.IntImm("int64", 1))
        most = te.compute((), lambda: te.max(used, axis=[i, k]), name="used")
        return te.compute((1,), lambda _: tirx.max(most(), tirx.IntImm("int64", 1)), name="widest")

    width = bind(n_te(widest, rows, name="widest"))

    def cut(x: Any, extents: Any) -> Any:
        return te.compute(extents, lambda *i: x(*i), name="cut")

    return n_te(cut, x, shape_expr([*dims[:-1], width]), name="cut")


def moved(n: Node, convert: Callable[[Node], Any]) -> list[Value]:
    """The results of an operator that moves strings: it is given their positions instead."""
    strings = n.value(0)
    count = n.math.product(strings.shape)

    def number(extents: Any) -> Any:
        def position(*index: Any) -> Any:
            at: Any = tirx.IntImm("int64", 0)
            for i, extent in zip(index, extents, strict=True):
                at = at * extent + tirx.Cast("int64", i)
            return at

        return te.compute(extents, position, name="positions")

    rows = n.reshape(bytes_of(strings), [count, width_of(bytes_of(strings))])
    n.inputs[0] = n.graph.wrap(n.te(number, shape_expr(strings.shape), name="positions"), n.place)
    result = convert(n)
    out = []
    for each in result if isinstance(result, tuple | list) else [result]:
        positions = n.graph.wrap(each, n.place)
        flat = n.reshape(n.graph.expr(positions), [n.math.product(positions.shape)])
        found = n.emit(relax.op.take(rows, flat, axis=0))
        out.append(string_value(n.reshape(found, [*positions.shape, width_of(rows)]), n.place))
    return out


def _byte(value: int) -> Any:
    return tirx.IntImm("uint8", value)
