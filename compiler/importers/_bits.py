"""Shifts of integers, of scalars in generated code, for all importers."""

from __future__ import annotations

from typing import Any

from tvm import tirx

__all__ = ["shifted"]


def shifted(p: Any, q: Any, dtype: str, *, left: bool) -> Any:
    """p shifted by q. By the width or more, or by less than 0, it leaves the sign alone, which the CPU's instruction does not."""
    signed = dtype.startswith("int")
    zero, width = tirx.const(0, dtype), tirx.const(int(dtype.removeprefix("u").removeprefix("int")), dtype)
    far = tirx.any(q >= width, q < zero) if signed else q >= width
    by = tirx.Select(far, zero, q)
    gone = tirx.Select(p < zero, tirx.const(-1, dtype), zero) if signed and not left else zero
    return tirx.Select(far, gone, tirx.shift_left(p, by) if left else tirx.shift_right(p, by))
