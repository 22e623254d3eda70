"""GatherBlockQuantized where a run computes the table, or what it is quantized by: elements are dequantized as they are taken."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from .._dims import Dim
from .._exprs import dims_of, shape_expr
from .._node import Node
from ._te import imm

__all__ = ["gathered_by_run"]


def gathered_by_run(n: Node, bits: int, block: int, gather: int, along: int) -> Any:
    """float32 (data - zero points) · scales at the indices, zeros where an index is none of the table's."""
    each = 8 // bits if n.dtype(0) == "uint8" else 1  # numbers in a byte, along the last axis; of the zero points too
    have = list(n.shape(0))
    have[-1] = n.math.mul(have[-1], each)
    groups = [n.math.ceildiv(d, block) if a == along else d for a, d in enumerate(have)]
    _require(n, 2, groups)
    if n.has(3):
        _require(n, 3, [*groups[:-1], n.math.ceildiv(groups[-1], each)])
    middle = 1 << (bits - 1) if n.dtype(0) == "uint8" else 0
    rank = n.rank(1)
    n.graph.limit_index(n.value(1), have[gather])
    index = n.cast(n.x(1), "int64")
    out = [*have[:gather], *dims_of(index), *have[gather + 1 :]]

    def body(data: Any, scale: Any, zero: Any, index: Any, dims: Any, ends: Any) -> Any:
        end = ends[0]

        def element(*o: Any) -> Any:
            i = index(*o[gather : gather + rank])
            found = tirx.all(i >= imm(0, "int64") - end, i < end)
            row = tirx.Select(found, tirx.Select(i < 0, i + end, i), imm(0, "int64"))
            at = [*o[:gather], row, *o[gather + rank :]]
            group = [tirx.floordiv(k, block) if a == along else k for a, k in enumerate(at)]
            origin = _number(zero, group, bits, each) if n.has(3) else imm(float(middle), "float32")
            value = (_number(data, at, bits, each) - origin) * tirx.Cast("float32", scale(*group))
            return tirx.Select(found, value, imm(0.0, "float32"))

        return te.compute(dims, element, name="gathered")

    zero = n.x(3) if n.has(3) else n.x(2)
    return n.te(body, n.x(0), n.x(2), zero, index, shape_expr(out), shape_expr([have[gather]]))


def _require(n: Node, i: int, wanted: list[Dim]) -> None:
    if n.rank(i) != len(wanted):
        raise n.broken(f"has input {i} of shape {list(n.shape(i))}, expected {wanted}")
    for a, b in zip(n.shape(i), wanted, strict=True):
        n.math.require_same(a, b)


def _number(table: Any, at: list[Any], bits: int, each: int) -> Any:
    """The number at a place as float32; the first of several in a byte has its lowest bits."""
    if each == 1:
        return tirx.Cast("float32", table(*at))
    byte = tirx.Cast("int32", table(*at[:-1], tirx.floordiv(at[-1], each)))
    shift = tirx.Cast("int32", tirx.floormod(at[-1], each) * bits)
    return tirx.Cast("float32", tirx.bitwise_and(tirx.shift_right(byte, shift), tirx.IntImm("int32", (1 << bits) - 1)))
