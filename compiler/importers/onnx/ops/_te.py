"""Generated functions that several operators share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import te, tirx

from .._exprs import dims_of, dtype_of
from .._node import Node
from .._values import bits_of, is_float, is_signed

__all__ = ["elementwise", "highest", "imm", "is_nan", "lowest", "select"]


def elementwise(n: Node, function: Callable[..., Any], *operands: Any, name: str = "") -> Any:
    """function(a, b, ...) on scalars of the operands, broadcast against each other."""
    shapes = [dims_of(x) for x in operands]
    if any(not isinstance(d, int | tirx.Var) for s in shapes for d in s):
        operands = tuple(n.align(*operands))
        shapes = [dims_of(x) for x in operands]
    rank = len(n.math.broadcast(*shapes))
    carrier: list[tuple[int, int] | None] = []
    for axis in range(rank):
        found = None
        for k, s in enumerate(shapes):
            at = axis - (rank - len(s))
            if found is None and at >= 0 and not _is_one(s[at]):
                found = (k, at)
        carrier.append(found)

    def body(*tensors: Any) -> Any:
        extents = [tensors[c[0]].shape[c[1]] if c else 1 for c in carrier]

        def element(*index: Any) -> Any:
            args = []
            for t, s in zip(tensors, shapes, strict=True):
                shift = rank - len(s)
                args.append(t(*[0 if _is_one(d) else index[shift + j] for j, d in enumerate(s)]))
            return function(*args)

        return te.compute(extents, element, name=name or n.op.lower())

    return n.te(body, *operands, name=name)


def _is_one(d: Any) -> bool:
    return isinstance(d, int) and d == 1


def imm(value: Any, dtype: str) -> Any:
    """A scalar of a type; infinities and NaN included."""
    if is_float(dtype):
        v = float(value)
        if v in (float("inf"), float("-inf")):
            top = tirx.Cast(dtype, tirx.infinity("float32")) if dtype in ("bfloat16",) else tirx.infinity(dtype)
            return top if v > 0 else -top
        return tirx.FloatImm(dtype, v)
    if dtype == "bool":
        return tirx.IntImm("bool", int(bool(value)))
    return tirx.const(int(value), dtype)


def lowest(dtype: str) -> Any:
    """The smallest value of a type: -inf, False, or the integer minimum."""
    if is_float(dtype):
        return imm(float("-inf"), dtype)
    if dtype == "bool":
        return imm(False, dtype)
    return imm(-(1 << (bits_of(dtype) - 1)) if is_signed(dtype) else 0, dtype)


def highest(dtype: str) -> Any:
    if is_float(dtype):
        return imm(float("inf"), dtype)
    if dtype == "bool":
        return imm(True, dtype)
    return imm((1 << (bits_of(dtype) - (1 if is_signed(dtype) else 0))) - 1, dtype)


def select(condition: Any, yes: Any, no: Any) -> Any:
    return tirx.Select(condition, yes, no)


def is_nan(value: Any) -> Any:
    """Not `value != value`: the simplifier takes that for False."""
    kind = str(value.ty.dtype)
    return tirx.isnan(value if kind in ("float32", "float64") else tirx.Cast("float32", value))


def dtype(expression: Any) -> str:
    return dtype_of(expression)
