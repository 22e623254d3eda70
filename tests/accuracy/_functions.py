"""What is measured: each function as torch spells it, and its exact value by mpmath, by float64 where that is plenty.

`wide` serves the dtypes narrower than float64: in float64 each function keeps 40 and more bits, so its error is nothing there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import torch
import torch.nn.functional as F

Tensor = torch.Tensor
F64 = torch.float64


@dataclass(frozen=True)
class Function:
    apply: Callable[[Tensor], Tensor]
    exact: Callable[[Any], Any]  # of an mpmath number
    wide: Callable[[Tensor], Tensor]  # of float64
    bound: float  # beyond it in magnitude the exact value takes too long, and is a limit anyway
    elementary: bool = True  # held to 4 units; a composition to no more than torch's own error, or 4


def _one(name: str, exact: Callable[[Any], Any], bound: float = 1e300) -> Function:
    function = getattr(torch, name)
    return Function(function, exact, function, bound)


def _composed(apply: Callable[[Tensor], Tensor], exact: Callable[[Any], Any], wide: Callable[[Tensor], Tensor]) -> Function:  # fmt: skip
    return Function(apply, exact, wide, 1e4, elementary=False)


def _number(value: float) -> Any:
    return mpmath.mpf(value)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


def _softplus(x: Any) -> Any:
    return mpmath.log1p(mpmath.exp(x)) if x < 60 else x + mpmath.exp(-x)


def _wide_softplus(x: Tensor) -> Tensor:
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


def _elu(x: Any, alpha: float = 1.0, scale: float = 1.0) -> Any:
    return _number(scale) * (x if x > 0 else _number(alpha) * mpmath.expm1(x))


def _wide_elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0) -> Tensor:
    return scale * torch.where(x > 0, x, alpha * torch.expm1(x))


_SELU = (1.6732632423543772, 1.0507009873554805)
_U = 2 * (2 / torch.pi) ** 0.5  # twice tanh-GELU's scale


def _clipped(x: Any) -> Any:
    return min(max(x + 3, _number(0)), _number(6)) / 6


FUNCTIONS: dict[str, Function] = {
    "acos": _one("acos", mpmath.acos),
    "acosh": _one("acosh", mpmath.acosh),
    "asin": _one("asin", mpmath.asin),
    "asinh": _one("asinh", mpmath.asinh),
    "atan": _one("atan", mpmath.atan),
    "atanh": _one("atanh", mpmath.atanh),
    "cos": _one("cos", mpmath.cos, 1e9),
    "cosh": _one("cosh", mpmath.cosh, 1e4),
    "erf": _one("erf", mpmath.erf, 1e4),
    "erfc": _one("erfc", mpmath.erfc, 1e4),
    "erfinv": _one("erfinv", mpmath.erfinv),
    "exp": _one("exp", mpmath.exp, 1e4),
    "exp2": _one("exp2", lambda x: mpmath.power(2, x), 1e4),
    "expm1": _one("expm1", mpmath.expm1, 1e4),
    "lgamma": _one("lgamma", mpmath.loggamma, 1e9),
    "log": _one("log", mpmath.log),
    "log10": _one("log10", mpmath.log10),
    "log1p": _one("log1p", mpmath.log1p),
    "log2": _one("log2", lambda x: mpmath.log(x, 2)),
    "reciprocal": _one("reciprocal", lambda x: 1 / x),
    "rsqrt": _one("rsqrt", lambda x: 1 / mpmath.sqrt(x)),
    "sigmoid": _one("sigmoid", _sigmoid, 1e4),
    "sin": _one("sin", mpmath.sin, 1e9),
    "sinh": _one("sinh", mpmath.sinh, 1e4),
    "sqrt": _one("sqrt", mpmath.sqrt),
    "tan": _one("tan", mpmath.tan, 1e9),
    "tanh": _one("tanh", mpmath.tanh, 1e4),
    "x^1.5": Function(lambda x: x**1.5, lambda x: mpmath.power(x, 1.5), lambda x: x**1.5, 1e300),
    "x^-2": Function(lambda x: x**-2, lambda x: 1 / (x * x), lambda x: x**-2, 1e300),
    "x^7": Function(lambda x: x**7, lambda x: x**7, lambda x: x**7, 1e300),
    "celu": _composed(lambda x: F.celu(x, 1.0), _elu, _wide_elu),
    "elu": _composed(F.elu, _elu, _wide_elu),
    "gelu": _composed(
        F.gelu, lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2, lambda x: x * torch.erfc(x * -(0.5**0.5)) / 2
    ),
    "gelu, tanh": _composed(
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: x * _sigmoid(2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3)),
        lambda x: x / (1 + torch.exp(-_U * (x + 0.044715 * x**3))),
    ),
    "hardsigmoid": _composed(F.hardsigmoid, _clipped, lambda x: (x + 3).clamp(0, 6) / 6),
    "hardswish": _composed(F.hardswish, lambda x: x * _clipped(x), lambda x: x * ((x + 3).clamp(0, 6) / 6)),
    "logsigmoid": _composed(F.logsigmoid, lambda x: -_softplus(-x), lambda x: -_wide_softplus(-x)),
    "mish": _composed(F.mish, lambda x: x * mpmath.tanh(_softplus(x)), lambda x: x * torch.tanh(_wide_softplus(x))),
    "selu": _composed(F.selu, lambda x: _elu(x, *_SELU), lambda x: _wide_elu(x, *_SELU)),
    "silu": _composed(F.silu, lambda x: x * _sigmoid(x), lambda x: x / (1 + torch.exp(-x))),
    "softplus": _composed(F.softplus, _softplus, _wide_softplus),
    "softsign": _composed(F.softsign, lambda x: x / (1 + abs(x)), lambda x: x / (1 + x.abs())),
}
