"""Division of integers and its rest, of scalars in generated code, by each rounding: exact over a type's whole range, and never a trap of
the CPU: x / 0 is 0 and x / -1 is -x with wrap-around, as numpy has it."""

from __future__ import annotations

from typing import Any

from tvm import tirx

__all__ = ["int_floor", "int_rest", "int_truncated", "signs_differ"]


def int_truncated(p: Any, q: Any, dtype: str) -> Any:
    """The quotient, rounded towards 0."""
    zero = _int(0, dtype)
    safe = _safe(q, dtype)
    quotient = tirx.truncdiv(p, safe)
    if dtype.startswith("int"):
        quotient = tirx.Select(q == _int(-1, dtype), zero - p, quotient)
    return tirx.Select(q == zero, zero, quotient)


def int_rest(p: Any, q: Any, dtype: str, *, truncate: bool) -> Any:
    """What is left: with the dividend's sign where the quotient is truncated, else with the divisor's."""
    zero = _int(0, dtype)
    safe = _safe(q, dtype)
    rest = tirx.truncmod(p, safe)
    if dtype.startswith("int") and not truncate:
        rest = tirx.Select(tirx.all(rest != zero, signs_differ(rest, safe, zero)), rest + safe, rest)
    trap = tirx.any(q == zero, q == _int(-1, dtype)) if dtype.startswith("int") else q == zero
    return tirx.Select(trap, zero, rest)


def int_floor(p: Any, q: Any, dtype: str) -> Any:
    """The quotient, rounded down."""
    quotient = int_truncated(p, q, dtype)
    if not dtype.startswith("int"):
        return quotient
    zero, one = _int(0, dtype), _int(1, dtype)
    uneven = int_rest(p, q, dtype, truncate=True) != zero
    return tirx.Select(tirx.all(uneven, signs_differ(p, q, zero)), quotient - one, quotient)


def _safe(q: Any, dtype: str) -> Any:
    """A divisor with which no CPU traps."""
    trap = q == _int(0, dtype)
    if dtype.startswith("int"):
        trap = tirx.any(trap, q == _int(-1, dtype))
    return tirx.Select(trap, _int(1, dtype), q)


def signs_differ(p: Any, q: Any, zero: Any) -> Any:
    """Whether one is negative and the other is not."""
    return tirx.any(tirx.all(p < zero, q >= zero), tirx.all(p >= zero, q < zero))


def _int(value: int, dtype: str) -> Any:
    return tirx.const(value, dtype)
