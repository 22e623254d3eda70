"""Functions of one number in the forms that lose no digits, for all importers: what Relax and TIR have no operator for, or have as a
difference of near numbers.

x is an expression of float32 or float64; so is the result.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

__all__ = ["elu", "erfc", "expm1", "fmod", "hypot", "log_sigmoid", "mish", "softplus"]


def _library(name: str, x: Any, *more: Any) -> Any:
    """libm's function of the dtype of x."""
    dtype = str(x.ty.dtype)
    return tirx.call_pure_extern(dtype, name + "f" if dtype == "float32" else name, x, *more)


def expm1(x: Any) -> Any:
    """e^x - 1."""
    return _library("expm1", x)


def erfc(x: Any) -> Any:
    """1 - erf(x)."""
    return _library("erfc", x)


def fmod(x: Any, y: Any) -> Any:
    """x - y trunc(x / y), exact."""
    return _library("fmod", x, y)


def hypot(x: Any, y: Any) -> Any:
    """sqrt(x^2 + y^2), whatever the squares are."""
    return _library("hypot", x, y)


def elu(x: Any, alpha: float, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    """scale * (x, or alpha (e^(input_scale x) - 1) below 0)."""
    zero = _number(0.0, x)
    below = expm1(x if input_scale == 1.0 else x * _number(input_scale, x)) * _number(alpha * scale, x)
    return tirx.Select(x > zero, x if scale == 1.0 else x * _number(scale, x), below)


def softplus(x: Any) -> Any:
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)"""
    zero = _number(0.0, x)
    return tirx.max(x, zero) + tirx.log1p(tirx.exp(tirx.Select(x < zero, x, zero - x)))


def log_sigmoid(x: Any) -> Any:
    """-softplus(-x) = min(x, 0) - log(1 + e^-|x|)"""
    zero = _number(0.0, x)
    return tirx.min(x, zero) - tirx.log1p(tirx.exp(tirx.Select(x < zero, x, zero - x)))


def mish(x: Any) -> Any:
    """x tanh(softplus(x))"""
    return x * tirx.tanh(softplus(x))


def _number(value: float, like: Any) -> Any:
    return tirx.FloatImm(str(like.ty.dtype), value)
