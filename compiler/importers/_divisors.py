"""Common divisors and multiples of integers, by Euclid's method."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ._division import int_rest, int_truncated
from ._imperative import imperative, variable

__all__ = ["int_divisors", "int_multiples"]


def int_divisors(p: Any, q: Any) -> Any:
    """The greatest common divisor of each two integers of two te tensors of one shape; of 0 and n it is |n|."""
    return _gcd_or_lcm(p, q, multiple=False)


def int_multiples(p: Any, q: Any) -> Any:
    """The least common multiple of each two integers; of 0 and n it is 0. It has to fit in 32 or 64 bits, and narrow types keep its low bits."""
    return _gcd_or_lcm(p, q, multiple=True)


def _gcd_or_lcm(p: Any, q: Any, multiple: bool) -> Any:
    dtype = str(p.dtype)
    wide = "int64" if dtype.startswith("int") else "uint64"  # in which a product of narrower ones does not overflow
    zero, count = tirx.const(0, dtype), tirx.const(1, "int64")
    for size in p.shape:
        count = count * size

    def size_of(x: Any) -> Any:
        none = tirx.const(0, str(x.ty.dtype))
        return tirx.Select(x < none, none - x, x) if dtype.startswith("int") else x

    def common(x: Any, y: Any, divisor: Any) -> Any:
        return tirx.Cast(dtype, size_of(tirx.Cast(wide, int_truncated(x, divisor, dtype)) * tirx.Cast(wide, y)))

    def write(p: Any, q: Any, out: Any) -> None:
        a, b, rest = variable(dtype), variable(dtype), variable(dtype)
        with T.serial(0, count) as i:
            a[0] = size_of(p[i])
            b[0] = size_of(q[i])
            with T.While(a[0] != zero):
                rest[0] = int_rest(b[0], a[0], dtype, truncate=True)
                b[0] = a[0]
                a[0] = rest[0]
            out[i] = common(p[i], q[i], b[0]) if multiple else b[0]

    return imperative([p.shape], [dtype], [p, q], write, "divisors")[0]
