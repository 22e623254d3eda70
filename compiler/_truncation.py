"""Floats as integers, the same on every CPU: what C compilers make of it on x86, where numpy, torch and ONNX Runtime run."""

from __future__ import annotations

from typing import Any

from tvm import tirx

__all__ = ["truncated"]


def truncated(v: Any, have: str, to: str) -> Any:
    """An expression of type `have` rounded towards 0. What 32 bits (64 for the wide types) do not hold, NaN too, is the least number;
    narrower types keep its low bits, and unsigned ones are read from the bits as well."""
    wide = have if have in ("float32", "float64") else "float32"
    x = tirx.Var("x", wide)
    bits = 64 if to in ("int64", "uint64") else 32
    if to == "uint32" and have == "float16":
        value = tirx.Cast(to, _signed(x, wide, 64))
    elif to in ("uint32", "uint64"):
        half = tirx.FloatImm(wide, 2.0 ** (bits - 1))
        upper = tirx.bitwise_xor(_signed(x - half, wide, bits), _int_min(bits))
        value = tirx.Cast(to, tirx.Select(x >= half, upper, _signed(x, wide, bits)))
    else:
        value = tirx.Cast(to, _signed(x, wide, bits))
    return tirx.Let(x, v if have == wide else tirx.Cast(wide, v), value)


def _signed(x: Any, dtype: str, bits: int) -> Any:
    bound = 2.0 ** (bits - 1)
    fits = tirx.all(x >= tirx.FloatImm(dtype, -bound), x < tirx.FloatImm(dtype, bound))
    return tirx.Select(fits, tirx.Cast(f"int{bits}", x), _int_min(bits))


def _int_min(bits: int) -> Any:
    return tirx.const(-(2 ** (bits - 1)), f"int{bits}")
