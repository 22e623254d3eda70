"""Operators that TVM's own lowering makes wrong: `LEGALIZE` for relax.transform.LegalizeOps.

GELU as it is written, x (1 + erf(x / sqrt 2)) / 2, cancels from -1 on, and has no digit left at -6. And with a number that is 0 TVM
calculates as if every other operand were finite and no zero had a sign: x * 0 and 0 / x become 0, x + 0 becomes x. A float beyond an
integer type is whatever the CPU makes of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax, te, tirx, topi

from .._truncation import truncated

__all__ = ["LEGALIZE"]

# The tail of the normal distribution beyond t is 2^-h(t): csrc/simd/math.h, which says how h was fitted.
_TAIL = (
    1.639441572e-6, -2.528423708e-5, 1.207546682e-4, 2.899517010e-4, -7.254886084e-3, 5.262165187e-2, 4.591692353e-1, 1.151109692,
    0.9999999094,
)  # fmt: skip


def _gelu(x: Any) -> Any:
    """x Phi(x)"""
    dtype = str(x.ty.dtype)
    zero, one = tirx.FloatImm(dtype, 0.0), tirx.FloatImm(dtype, 1.0)
    if dtype == "float64":
        tail = tirx.call_pure_extern(dtype, "erfc", x * tirx.FloatImm(dtype, -math.sqrt(0.5)))
        return x * (tail * tirx.FloatImm(dtype, 0.5))
    t = tirx.abs(x)
    h: Any = tirx.FloatImm(dtype, _TAIL[0])
    for coefficient in _TAIL[1:]:
        h = h * t + tirx.FloatImm(dtype, coefficient)
    tail = tirx.exp2(zero - h)
    return x * tirx.Select(x < zero, tail, one - tail)


def _gelu_tanh(x: Any) -> Any:
    """x (1 + tanh(u)) / 2 = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3)"""
    dtype = str(x.ty.dtype)
    scale = 2 * math.sqrt(2 / math.pi)
    cubic, linear = tirx.FloatImm(dtype, -scale * 0.044715), tirx.FloatImm(dtype, -scale)
    return x / (tirx.FloatImm(dtype, 1.0) + tirx.exp(x * (x * x * cubic + linear)))


def _legalize(function: Callable[[Any], Any], name: str) -> Callable[[Any, Any], Any]:
    def legalized(builder: relax.BlockBuilder, call: Any) -> Any:
        def body(x: Any) -> Any:
            wide = "float64" if str(x.dtype) == "float64" else "float32"

            def element(*i: Any) -> Any:
                value = x(*i)
                y = tirx.Var("x", wide)
                return tirx.Cast(str(x.dtype), tirx.Let(y, tirx.Cast(wide, value), function(y)))

            return te.compute(x.shape, element, name=name)

        return builder.call_te(body, call.args[0], primfunc_name_hint=name)

    return legalized


def _with_zero(name: str, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The operator as ever, but where a number is 0: that stays a tensor of one element, which nothing folds."""
    plain = tvm.ir.Op.get(name).get_attr("FLegalize")

    def legalized(builder: relax.BlockBuilder, call: Any) -> Any:
        if not any(_is_zero(arg) for arg in call.args):
            return plain(builder, call)
        return builder.call_te(function, *call.args, primfunc_name_hint=name.removeprefix("relax."))

    return legalized


def _is_zero(arg: Any) -> bool:
    if not isinstance(arg, tvm.ir.GenericConst) or arg.ty.ndim or not str(arg.ty.dtype).startswith(("float", "bfloat")):
        return False
    return bool(arg.value.numpy() == 0)


def _converted(builder: relax.BlockBuilder, call: Any) -> Any:
    have, to = str(call.args[0].ty.dtype), str(call.attrs.dtype)
    if "float" not in have or "int" not in to:
        return tvm.ir.Op.get("relax.astype").get_attr("FLegalize")(builder, call)

    def body(x: Any) -> Any:
        return te.compute(x.shape, lambda *i: truncated(x(*i), have, to), name="truncate")

    return builder.call_te(body, call.args[0], primfunc_name_hint="truncate")


def _of_unsigned(name: str, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """function(x, 0) where TVM makes a constant of -1 that an unsigned type does not have."""
    plain = tvm.ir.Op.get(name).get_attr("FLegalize")

    def legalized(builder: relax.BlockBuilder, call: Any) -> Any:
        dtype = str(call.args[0].ty.dtype)
        if not dtype.startswith("uint"):
            return plain(builder, call)

        def body(x: Any) -> Any:
            return te.compute(x.shape, lambda *i: function(x(*i), tirx.const(0, dtype)), name="unsigned")

        return builder.call_te(body, call.args[0], primfunc_name_hint=name.removeprefix("relax."))

    return legalized


LEGALIZE: dict[str, Callable[[Any, Any], Any]] = {
    "relax.add": _with_zero("relax.add", topi.add),
    "relax.divide": _with_zero("relax.divide", topi.divide),
    "relax.multiply": _with_zero("relax.multiply", topi.multiply),
    "relax.subtract": _with_zero("relax.subtract", topi.subtract),
    "relax.astype": _converted,
    "relax.negative": _of_unsigned("relax.negative", lambda x, zero: zero - x),
    "relax.sign": _of_unsigned("relax.sign", lambda x, zero: tirx.Cast(str(x.ty.dtype), x != zero)),
    "relax.nn.gelu": _legalize(_gelu, "gelu"),
    "relax.nn.gelu_tanh": _legalize(_gelu_tanh, "gelu_tanh"),
}
