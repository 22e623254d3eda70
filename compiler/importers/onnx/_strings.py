"""Strings that only a run knows: a string value's expression is uint8 with a last axis of bytes, UTF-8, padded with zeros.

Its `dtype` is STRING and its `shape` that of the strings, without the axis of bytes. Converters that know of strings are registered
with `string_op`; those of operators that only move elements need not know (_moved_strings.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from maas_rt._strings import encode_strings

from ._dims import Dim
from ._exprs import constant, dims_of, shape_expr
from ._values import STRING, Value

__all__ = ["bytes_of", "canonical", "is_string", "string_value", "width_of"]


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
        longest = te.compute((), lambda: te.max(used, axis=[i, k]), name="used")
        return te.compute((1,), lambda _: tirx.max(longest(), tirx.IntImm("int64", 1)), name="widest")

    width = bind(n_te(widest, rows, name="widest"))

    def cut(x: Any, extents: Any) -> Any:
        return te.compute(extents, lambda *i: x(*i), name="cut")

    return n_te(cut, x, shape_expr([*dims[:-1], width]), name="cut")


def _byte(value: int) -> Any:
    return tirx.IntImm("uint8", value)
