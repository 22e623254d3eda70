"""Operators that only move elements, of strings: applied to the strings' positions, and the rows are fetched from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, te, tirx

from ._exprs import shape_expr
from ._node import Node
from ._strings import bytes_of, string_value, width_of
from ._values import Value

__all__ = ["MOVES_STRINGS", "by_position"]

# Operators whose results are elements of input 0, wherever they stand.
MOVES_STRINGS = frozenset(
    """Compress DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Reshape Slice Split Squeeze Tile Transpose
    Unsqueeze""".split()
)


def by_position(n: Node, convert: Callable[[Node], Any]) -> list[Value]:
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
