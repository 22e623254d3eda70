"""Operators that work on each element alone: arithmetic, comparison, logic, rounding, selection; with torch's type promotion."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from ... import _elementary as elementary
from ..._bits import shifted
from ..._division import int_floor, int_rest, int_truncated
from ..._divisors import int_divisors, int_multiples
from ..._powers import int_powers
from .._context import Context, Expr, Promotion
from .._dtypes import is_float, tvm_dtype
from .._registry import NotConvertible, converts

OP = relax.op


# One operand. Integers become float32 where the result is a real number.

_REAL: dict[str, Callable[..., Any]] = {
    "acos": OP.acos,
    "acosh": OP.acosh,
    "asin": OP.asin,
    "asinh": OP.asinh,
    "atan": OP.atan,
    "atanh": OP.atanh,
    "cos": OP.cos,
    "cosh": OP.cosh,
    "erf": OP.erf,
    "exp": OP.exp,
    "log": OP.log,
    "rsqrt": OP.rsqrt,
    "sigmoid": OP.sigmoid,
    "sin": OP.sin,
    "sinh": OP.sinh,
    "sqrt": OP.sqrt,
    "tan": OP.tan,
    "tanh": OP.tanh,
}
_SAME_TYPE: dict[str, Callable[..., Any]] = {"abs": OP.abs, "neg": OP.negative, "sign": OP.sign}
_ROUNDING: dict[str, Callable[..., Any]] = {"ceil": OP.ceil, "floor": OP.floor, "round": OP.round, "trunc": OP.trunc}
_TESTS: dict[str, Callable[..., Any]] = {"isfinite": OP.isfinite, "isinf": OP.isinf, "isnan": OP.isnan}


def unary(c: Context, x: Expr, function: Callable[..., Any], kind: Any = Promotion.DEFAULT) -> Expr:
    """function(x), in the dtypes that torch computes in and returns."""
    compute, result = c.promoted(["x"], kind)
    return c.cast(c.emit(function(c.cast(x, compute))), result)


def _register(table: dict[str, Callable[..., Any]], body: Callable[[Callable[..., Any]], Any]) -> None:
    for name, function in table.items():
        converts(f"aten.{name}.default")(body(function))


def _real(function: Callable[..., Any]) -> Any:
    return lambda c, x: unary(c, x, function, Promotion.INT_TO_FLOAT)


def _same(function: Callable[..., Any]) -> Any:
    return lambda c, x: x if c.dtype(x) == "bool" else unary(c, x, function)


def _round_like(function: Callable[..., Any]) -> Any:
    return lambda c, x: unary(c, x, function) if is_float(c.dtype(x)) else x


def _test(function: Callable[..., Any]) -> Any:
    def convert(c: Context, x: Expr) -> Expr:
        return c.emit(function(c.cast(x, "float32") if c.dtype(x) != "float64" else x))

    return convert


_register(_REAL, _real)
_register(_SAME_TYPE, _same)
_register(_ROUNDING, _round_like)
_register(_TESTS, _test)


def _compute(c: Context, x: Expr, function: Callable[[Any], Any]) -> Expr:
    """An elementwise function that Relax has no operator for, as a tensor expression."""

    def build(value: Any) -> Any:
        return te.compute(value.shape, lambda *index: function(value(*index)), name="elementwise")

    return c.emit_te(build, x)


def computed(c: Context, x: Expr, function: Callable[[Any], Any], kind: Any = Promotion.INT_TO_FLOAT) -> Expr:
    """function of each element of x, as an expression of TIR in the dtype that torch computes in."""
    compute, result = c.promoted(["x"], kind)
    return c.cast(_compute(c, c.cast(x, compute), function), result)


def _scalar(function: Callable[[Any], Any]) -> Any:
    return lambda c, x: computed(c, x, function)


_register(
    {
        "erfc": elementary.erfc,
        "exp2": tirx.exp2,
        "expm1": elementary.expm1,
        "log10": tirx.log10,
        "log1p": tirx.log1p,
        "log2": tirx.log2,
    },
    _scalar,
)


@converts("aten.reciprocal.default")
def reciprocal(c: Context, x: Expr) -> Expr:
    return unary(c, x, lambda v: OP.divide(c.const(1.0, c.dtype(v)), v), Promotion.INT_TO_FLOAT)


@converts("aten.square.default")
def square(c: Context, x: Expr) -> Expr:
    return unary(c, x, lambda v: OP.multiply(v, v))


@converts("aten.logical_not.default")
def logical_not(c: Context, x: Expr) -> Expr:
    return c.emit(OP.logical_not(c.cast(x, "bool")))


@converts("aten.bitwise_not.default")
def bitwise_not(c: Context, x: Expr) -> Expr:
    return c.emit(OP.logical_not(x) if c.dtype(x) == "bool" else OP.bitwise_not(x))


@converts("aten.round.decimals")
def round_decimals(c: Context, x: Expr, decimals: int = 0) -> Expr:
    if not is_float(c.dtype(x)):
        return x
    scale = c.const(10.0 ** abs(decimals), c.dtype(x))
    there, back = (OP.multiply, OP.divide) if decimals > 0 else (OP.divide, OP.multiply)
    return c.emit(back(c.emit(OP.round(c.emit(there(x, scale)))), scale))


@converts("aten.signbit.default")
def signbit(c: Context, x: Expr) -> Expr:
    """Whether the sign is minus; that of -0.0 is found through 1 / x."""
    dtype = c.dtype(x)
    if dtype == "bool":
        return c.emit(OP.logical_and(x, c.const(False, "bool")))
    zero = c.const(0, dtype)
    below = c.emit(OP.less(x, zero))
    if not is_float(dtype):
        return below
    return c.emit(OP.logical_or(below, c.emit(OP.less(c.emit(OP.divide(c.const(1.0, dtype), x)), zero))))


@converts("aten.angle.default")
def angle(c: Context, x: Expr) -> Expr:
    """0 or pi; NaN stays."""
    compute, result = c.promoted(["x"], Promotion.INT_TO_FLOAT)
    x = c.cast(x, compute)
    side = c.where(c.emit(OP.less(x, c.const(0.0, compute))), c.const(math.pi, compute), c.const(0.0, compute))
    return c.cast(c.where(c.emit(OP.isnan(x)), x, side), result)


# Two operands, broadcast.


def binary(c: Context, x: Any, other: Any, function: Callable[..., Any], kind: Any = Promotion.DEFAULT) -> Expr:
    """function(x, other) in the dtypes of torch's promotion; numbers and sizes become constants."""
    compute, result = c.promoted(["x", "other"], kind)
    return c.cast(c.emit(function(*operands(c, x, other, compute))), result)


def operands(c: Context, x: Any, other: Any, dtype: str) -> tuple[Expr, Expr]:
    """Both operands as tensors of the dtype, broadcast explicitly where Relax could not see that their sizes agree."""
    a, b = c.tensor(x, dtype), c.tensor(other, dtype)
    return fitted(c, a), fitted(c, b)


def fitted(c: Context, x: Expr) -> Expr:
    """x as it is where broadcasting it to the result is plain to see, else broadcast to the result's shape."""
    out, have = c.out_shape(), c.shape(x)
    aligned = out[len(out) - len(have) :] if have else []
    if all((isinstance(p, int) and p == 1) or c.same_dims([p], [q]) for p, q in zip(have, aligned)):
        return x
    return c.broadcast(x, out)


def _scaled(c: Context, other: Any, alpha: Any) -> Any:
    """other * alpha for add and sub, in the dtype of the result."""
    if alpha == 1:
        return other
    compute, _ = c.promoted(["x", "other"])
    if isinstance(other, (int, float)):
        return other * alpha
    return c.emit(OP.multiply(c.tensor(other, compute), c.tensor(alpha, compute)))


@converts("aten.add.Tensor", "aten.add.Scalar")
def add(c: Context, x: Expr, other: Any, alpha: Any = 1) -> Expr:
    if c.out_dtype() == "bool":
        return c.emit(OP.logical_or(*operands(c, x, other, "bool")))
    return binary(c, x, _scaled(c, other, alpha), OP.add)


@converts("aten.sub.Tensor", "aten.sub.Scalar")
def sub(c: Context, x: Expr, other: Any, alpha: Any = 1) -> Expr:
    return binary(c, x, _scaled(c, other, alpha), OP.subtract)


@converts("aten.rsub.Scalar", "aten.rsub.Tensor")
def rsub(c: Context, x: Expr, other: Any, alpha: Any = 1) -> Expr:
    compute, result = c.promoted(["x", "other"])
    scaled = x if alpha == 1 else c.emit(OP.multiply(c.tensor(x, compute), c.tensor(alpha, compute)))
    a, b = operands(c, other, scaled, compute)
    return c.cast(c.emit(OP.subtract(a, b)), result)


@converts("aten.mul.Tensor", "aten.mul.Scalar")
def mul(c: Context, x: Expr, other: Any) -> Expr:
    if c.out_dtype() == "bool":
        return c.emit(OP.logical_and(*operands(c, x, other, "bool")))
    return binary(c, x, other, OP.multiply)


@converts("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor")
def div(c: Context, x: Expr, other: Any) -> Expr:
    return binary(c, x, other, OP.divide, Promotion.INT_TO_FLOAT)


@converts("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def div_mode(c: Context, x: Expr, other: Any, rounding_mode: str | None) -> Expr:
    if rounding_mode is None:
        return div(c, x, other)
    return floor_divide(c, x, other) if rounding_mode == "floor" else _truncated(c, x, other)


@converts("aten.floor_divide.default", "aten.floor_divide.Scalar")
def floor_divide(c: Context, x: Expr, other: Any) -> Expr:
    compute, result = c.promoted(["x", "other"])
    if is_float(compute):
        return _paired(c, x, other, _floor_quotient)
    if _is_plain(other):
        return c.cast(c.emit(OP.floor_divide(*operands(c, x, other, compute))), result)
    return _paired(c, x, other, lambda p, q: int_floor(p, q, compute))


def _paired(c: Context, x: Any, other: Any, function: Callable[[Any, Any], Any]) -> Expr:
    """function of each two elements, as an expression of TIR in the dtype that torch computes in; a number is first rounded to the
    result's dtype, as in torch."""
    compute, result = c.promoted(["x", "other"])
    a, b = (c.broadcast(c.cast(v, compute), c.out_shape()) for v in operands(c, x, other, result))

    def build(p: Any, q: Any) -> Any:
        return te.compute(p.shape, lambda *index: function(p(*index), q(*index)), name="elementwise")

    return c.cast(c.emit_te(build, a, b), result)


def _floor_rest(p: Any, q: Any) -> Any:
    """p - q floor(p / q), exact: what libm's fmod leaves, moved to the side of the divisor."""
    rest = elementary.fmod(p, q)
    return tirx.Select(_other_side(rest, q), rest + q, rest)


def _other_side(rest: Any, q: Any) -> Any:
    """Whether what fmod leaves has another sign than the divisor."""
    zero = tirx.FloatImm(rest.ty.dtype, 0.0)
    return tirx.all(rest != zero, tirx.any(tirx.all(rest < zero, q > zero), tirx.all(rest > zero, q < zero)))


def _floor_quotient(p: Any, q: Any) -> Any:
    """floor(p / q) of the exact quotient, which the rounded one may have crossed; step by step c10's div_floor_floating."""
    number = functools.partial(tirx.FloatImm, p.ty.dtype)
    rest = elementary.fmod(p, q)
    quotient = (p - rest) / q
    quotient = tirx.Select(_other_side(rest, q), quotient - number(1.0), quotient)
    whole = tirx.floor(quotient)
    whole = tirx.Select(quotient - whole > number(0.5), whole + number(1.0), whole)
    whole = tirx.Select(quotient.equal(number(0.0)), tirx.copysign(number(0.0), p / q), whole)
    return tirx.Select(q.equal(number(0.0)), p / q, whole)


def _truncated(c: Context, x: Expr, other: Any) -> Expr:
    compute, result = c.promoted(["x", "other"])
    if is_float(compute):
        return c.cast(c.emit(OP.trunc(c.emit(OP.divide(*operands(c, x, other, compute))))), result)
    return _paired(c, x, other, lambda p, q: int_truncated(p, q, compute))


@converts("aten.remainder.Tensor", "aten.remainder.Scalar")
def remainder(c: Context, x: Expr, other: Any) -> Expr:
    compute, result = c.promoted(["x", "other"])
    if is_float(compute):
        return _paired(c, x, other, _floor_rest)
    if _is_plain(other):
        return c.cast(c.emit(OP.floor_mod(*operands(c, x, other, compute))), result)
    return _paired(c, x, other, lambda p, q: int_rest(p, q, compute, truncate=False))


@converts("aten.fmod.Tensor", "aten.fmod.Scalar")
def fmod(c: Context, x: Expr, other: Any) -> Expr:
    compute, _ = c.promoted(["x", "other"])
    if is_float(compute):
        return _paired(c, x, other, elementary.fmod)
    return _paired(c, x, other, lambda p, q: int_rest(p, q, compute, truncate=True))


def _is_plain(divisor: Any) -> bool:
    """Whether a divisor is a number with which no division of integers traps or wraps around."""
    return isinstance(divisor, int) and not isinstance(divisor, bool) and divisor > 0


@converts("aten.pow.Tensor_Scalar")
def pow_scalar(c: Context, x: Expr, exponent: Any) -> Expr:
    compute, result = c.promoted(["x", "exponent"])
    x = c.cast(x, compute)
    # Each multiplication rounds: beyond 8 of them libm's pow is nearer, for floats.
    if exponent in (1, 2, 3, 4) or (isinstance(exponent, int) and 0 < exponent <= (8 if is_float(compute) else 16)):
        total = x
        for _ in range(int(exponent) - 1):
            total = c.emit(OP.multiply(total, x))
        return c.cast(total, result)
    if not is_float(compute):
        return _whole_power(c, x, exponent)
    if exponent == -1 or (exponent in (0.5, -0.5) and result != "float16"):  # where torch takes roots
        one = c.const(1.0, compute)
        root = x if exponent == -1 else c.emit(OP.sqrt(x))
        return c.cast(root if exponent == 0.5 else c.emit(OP.divide(one, root)), result)
    if result == "bfloat16":  # torch rounds it
        return c.cast(c.emit(OP.power(x, c.cast(c.tensor(exponent, result), compute))), result)
    if (
        compute == "float32" and float(np.float32(exponent)) != exponent
    ):  # as 1 / 3: x to its rounding is another number
        compute = "float64"
    return c.cast(c.emit(OP.power(c.cast(x, compute), c.tensor(exponent, compute))), result)


@converts("aten.pow.Tensor_Tensor")
def pow_tensor(c: Context, x: Expr, exponent: Expr) -> Expr:
    compute, result = c.promoted(["x", "exponent"])
    if not is_float(compute):
        return _whole_power(c, x, exponent)
    return c.cast(c.emit(OP.power(*operands(c, x, exponent, compute))), result)


def _on_integers(c: Context, x: Any, other: Any, function: Callable[[Any, Any, str], Any]) -> Expr:
    """function of each two integers, as an expression of TIR, and of their type."""
    compute, result = c.promoted(["x", "other"])
    a, b = (c.broadcast(v, c.out_shape()) for v in operands(c, x, other, compute))

    def build(p: Any, q: Any) -> Any:
        return te.compute(p.shape, lambda *i: function(p(*i), q(*i), compute), name="whole")

    return c.cast(c.emit_te(build, a, b), result)


def _whole_power(c: Context, x: Any, exponent: Any) -> Expr:
    return _in_loops(c, x, exponent, int_powers, ("x", "exponent"))


def _in_loops(
    c: Context, x: Any, other: Any, function: Callable[[Any, Any], Any], names: tuple[str, str] = ("x", "other")
) -> Expr:
    """function of two te tensors of integers of one shape, which writes loops of its own."""
    compute, result = c.promoted(names)
    a, b = (c.broadcast(v, c.out_shape()) for v in operands(c, x, other, compute))
    return c.cast(c.generated(function, a, b, name=function.__name__)[0], result)


@converts("aten.gcd.default")
def gcd(c: Context, x: Any, other: Any) -> Expr:
    return _in_loops(c, x, other, int_divisors)


@converts("aten.lcm.default")
def lcm(c: Context, x: Any, other: Any) -> Expr:
    return _in_loops(c, x, other, int_multiples)


@converts("aten.pow.Scalar")
def scalar_pow(c: Context, x: Any, exponent: Expr) -> Expr:
    compute, result = c.promoted(["x", "exponent"])
    if not is_float(compute):
        return _whole_power(c, x, exponent)
    return c.cast(c.emit(OP.power(*operands(c, x, exponent, compute))), result)


@converts("aten.atan2.default")
def atan2(c: Context, x: Expr, other: Expr) -> Expr:
    return binary(c, x, other, OP.atan2, Promotion.INT_TO_FLOAT)


@converts("aten.hypot.default")
def hypot(c: Context, x: Expr, other: Expr) -> Expr:
    return _paired(c, x, other, elementary.hypot)


@converts("aten.copysign.Tensor", "aten.copysign.Scalar")
def copysign(c: Context, x: Expr, other: Any) -> Expr:
    """|x| with other's sign; the sign of -0.0 is found through 1 / other."""
    compute, result = c.promoted(["x", "other"], Promotion.INT_TO_FLOAT)
    a, b = operands(c, x, other, compute)
    zero = c.const(0.0, compute)
    below = c.emit(OP.less(b, zero))
    negative_zero = c.emit(OP.less(c.emit(OP.divide(c.const(1.0, compute), b)), zero))
    size = c.emit(OP.abs(a))
    return c.cast(c.where(c.emit(OP.logical_or(below, negative_zero)), c.emit(OP.negative(size)), size), result)


@converts("aten.maximum.default")
def maximum(c: Context, x: Expr, other: Expr) -> Expr:
    if c.out_dtype() == "bool":
        return c.emit(OP.logical_or(*operands(c, x, other, "bool")))
    return binary(c, x, other, OP.maximum)


@converts("aten.minimum.default")
def minimum(c: Context, x: Expr, other: Expr) -> Expr:
    if c.out_dtype() == "bool":
        return c.emit(OP.logical_and(*operands(c, x, other, "bool")))
    return binary(c, x, other, OP.minimum)


def _ignoring_nan(function: Callable[..., Any]) -> Any:
    """The larger or the smaller one; where one operand is NaN, the other."""

    def convert(c: Context, x: Expr, other: Expr) -> Expr:
        compute, result = c.promoted(["x", "other"])
        a, b = operands(c, x, other, compute)
        found = c.emit(function(a, b))
        if is_float(compute):
            found = c.where(c.emit(OP.isnan(b)), a, c.where(c.emit(OP.isnan(a)), b, found))
        return c.cast(found, result)

    return convert


converts("aten.fmax.default")(_ignoring_nan(OP.maximum))
converts("aten.fmin.default")(_ignoring_nan(OP.minimum))

_COMPARISONS: dict[str, Callable[..., Any]] = {
    "eq": OP.equal,
    "ne": OP.not_equal,
    "lt": OP.less,
    "le": OP.less_equal,
    "gt": OP.greater,
    "ge": OP.greater_equal,
}


def _comparison(function: Callable[..., Any]) -> Any:
    def convert(c: Context, x: Expr, other: Any) -> Expr:
        compute, _ = c.promoted(["x", "other"], Promotion.ALWAYS_BOOL)
        if compute == "bool":
            compute = "int8"
        return c.emit(function(*operands(c, x, other, compute)))

    return convert


for _name, _function in _COMPARISONS.items():
    converts(f"aten.{_name}.Tensor", f"aten.{_name}.Scalar")(_comparison(_function))


def _logical(function: Callable[..., Any]) -> Any:
    return lambda c, x, other: c.emit(function(*operands(c, x, other, "bool")))


for _name, _function in {"and": OP.logical_and, "or": OP.logical_or, "xor": OP.logical_xor}.items():
    converts(f"aten.logical_{_name}.default")(_logical(_function))


def _bitwise(on_bool: Callable[..., Any], on_integer: Callable[..., Any]) -> Any:
    def convert(c: Context, x: Any, other: Any) -> Expr:
        compute, result = c.promoted(["x", "other"])
        function = on_bool if compute == "bool" else on_integer
        return c.cast(c.emit(function(*operands(c, x, other, compute))), result)

    return convert


for _name, _pair in {
    "and": (OP.logical_and, OP.bitwise_and),
    "or": (OP.logical_or, OP.bitwise_or),
    "xor": (OP.logical_xor, OP.bitwise_xor),
}.items():
    converts(f"aten.bitwise_{_name}.Tensor", f"aten.bitwise_{_name}.Scalar")(_bitwise(*_pair))


def _shift_to(side: str) -> Any:
    def convert(c: Context, x: Any, other: Any) -> Expr:
        return _on_integers(c, x, other, lambda p, q, dtype: shifted(p, q, dtype, left=side == "left"))

    return convert


for _name in ("left", "right"):
    _shift = f"__{_name[0]}shift__"
    converts(
        f"aten.bitwise_{_name}_shift.Tensor",
        f"aten.bitwise_{_name}_shift.Tensor_Scalar",
        f"aten.{_shift}.Tensor",
        f"aten.{_shift}.Scalar",
    )(_shift_to(_name))


# Selection and limits.


@converts("aten.where.self", "aten.where.ScalarSelf", "aten.where.ScalarOther", "aten.where.Scalar")
def where(c: Context, condition: Expr, x: Any, other: Any) -> Expr:
    compute = c.out_dtype()
    a, b = c.tensor(x, compute), c.tensor(other, compute)
    return c.where(fitted(c, c.cast(condition, "bool")), fitted(c, a), fitted(c, b))


@converts("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(c: Context, x: Expr, mask: Expr, value: Any) -> Expr:
    filling = (
        c.reshape(c.tensor(value, c.dtype(x)), [])
        if not isinstance(value, (int, float))
        else c.const(value, c.dtype(x))
    )
    return c.where(fitted(c, mask), filling, fitted(c, x))


def _limited(c: Context, x: Expr, low: Any, high: Any) -> Expr:
    result = c.out_dtype()
    x = c.cast(x, result)
    for limit, function in ((low, OP.maximum), (high, OP.minimum)):
        if limit is not None:
            x = c.emit(function(fitted(c, x), fitted(c, c.tensor(limit, result))))
    return x


@converts("aten.clamp.default", "aten.clamp.Tensor")
def clamp(c: Context, x: Expr, min: Any = None, max: Any = None) -> Expr:
    numbers = isinstance(min, (int, float)) and isinstance(max, (int, float))
    if numbers and min <= max and c.dtype(x) == c.out_dtype() == "float32":
        return c.emit(OP.clip(x, float(min), float(max)))
    return _limited(c, x, min, max)  # of limits that cross the upper one wins, NaN makes all NaN; clip has neither


@converts("aten.clamp_min.default", "aten.clamp_min.Tensor")
def clamp_min(c: Context, x: Expr, min: Any) -> Expr:
    return _limited(c, x, min, None)


@converts("aten.clamp_max.default", "aten.clamp_max.Tensor")
def clamp_max(c: Context, x: Expr, max: Any) -> Expr:
    return _limited(c, x, None, max)


# Conversion of the element type.


@converts("aten._to_copy.default", "aten.to.dtype", "aten.to.dtype_layout")
def to_dtype(c: Context, x: Expr, dtype: Any = None) -> Expr:
    return x if dtype is None else converted(c, x, tvm_dtype(dtype))


def converted(c: Context, x: Expr, dtype: str) -> Expr:
    """A conversion that the model asks for. To a half type it rounds: relax.astype would be an importer's own, which passes may drop."""
    if dtype in ("float16", "bfloat16") and c.dtype(x) == "float32":
        return _compute(c, x, lambda v: tirx.Cast(dtype, v))
    return c.cast(x, dtype)


@converts("prims.convert_element_type.default")
def convert_element_type(c: Context, a: Expr, dtype: Any) -> Expr:
    return converted(c, a, tvm_dtype(dtype))


@converts("aten.view.dtype")
def view_dtype(c: Context, x: Expr, dtype: Any) -> Expr:
    """The same bits as numbers of another type of as many."""
    wanted = tvm_dtype(dtype)
    if c.rank(x) != len(c.out_shape()) or not c.same_dims(c.shape(x), c.out_shape()) or "bool" in (wanted, c.dtype(x)):
        raise NotConvertible(f"bits of {c.dtype(x)} as {wanted}, which has others")
    return x if wanted == c.dtype(x) else c.emit(OP.memory.view(x, None, wanted))


@converts("aten.type_as.default", "aten.to.other")
def type_as(c: Context, x: Expr, other: Expr) -> Expr:
    return converted(c, x, c.dtype(other))
