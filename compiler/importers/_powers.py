"""Powers of integers by integers: exact, with wrap-around, over the whole range of both."""

from __future__ import annotations

import math
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .._truncation import truncated
from ._imperative import imperative, variable

__all__ = ["int_powers"]


def int_powers(bases: Any, exponents: Any) -> Any:
    """p^q of each two integers of two te tensors of one shape; of q below 0 it is 1 / p^-q, rounded towards 0 (_truncation: of p = 0, too)"""
    dtype, kind = str(bases.dtype), str(exponents.dtype)
    signed = kind.startswith("int")
    bits = int(kind.removeprefix("u").removeprefix("int")) - signed
    one, count = tirx.const(1, dtype), tirx.const(1, "int64")
    for size in bases.shape:
        count = count * size

    def odd(q: Any) -> Any:
        return tirx.bitwise_and(q, tirx.const(1, kind)) == tirx.const(1, kind)

    def write(p: Any, q: Any, out: Any) -> None:
        result, square = variable(dtype), variable(dtype)
        with T.serial(0, count) as i:
            result[0] = one
            square[0] = p[i]
            with T.serial(0, tirx.const(bits, "int64")) as k:  # bit k of the exponent multiplies by p^(2^k)
                here = odd(tirx.shift_right(q[i], tirx.Cast(kind, k)))
                result[0] = tirx.Select(here, result[0] * square[0], result[0])
                square[0] = square[0] * square[0]
            out[i] = (
                tirx.Select(q[i] < tirx.const(0, kind), _inverse(p[i], odd(q[i]), dtype), result[0])
                if signed
                else result[0]
            )

    return imperative([bases.shape], [dtype], [bases, exponents], write, "power")[0]


def _inverse(p: Any, odd: Any, dtype: str) -> Any:
    """Of 1 it is 1, of -1 it has the sign, of 0 what infinity is converted to, of all else 0."""
    one, zero = tirx.const(1, dtype), tirx.const(0, dtype)
    found = tirx.Select(p == one, one, zero)
    if not dtype.startswith("int"):
        return found
    less = tirx.const(-1, dtype)
    found = tirx.Select(p == less, tirx.Select(odd, less, one), found)
    return tirx.Select(p == zero, truncated(tirx.const(math.inf, "float64"), "float64", dtype), found)
