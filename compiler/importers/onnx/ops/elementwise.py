"""Operators that work element by element: arithmetic, comparison, logic, bits, activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax, tirx

from ...._truncation import truncated
from ... import _elementary as elementary
from ..._bits import shifted
from ..._division import int_rest, int_truncated, signs_differ
from ..._powers import int_powers
from .._exprs import constant, dims_of, dtype_of, shape_expr
from .._node import Node
from .._registry import op
from .._values import bits_of, is_float, is_int, is_signed
from ._te import elementwise, highest, imm, is_nan, lowest, select
from .random import dropped

# ---- arithmetic


def _pair(n: Node) -> tuple[Any, Any, str]:
    if n.dtype(0) != n.dtype(1):
        raise n.broken(f"has operands of different types, {n.dtype(0)} and {n.dtype(1)}")
    a, b = n.align(n.x(0), _second(n))
    return a, b, n.dtype(0)


def _second(n: Node) -> Any:
    """The second operand. Before version 7 its axes are those of the first from `axis` on, where `broadcast` is set."""
    b = n.x(1)
    if n.version >= 7 or not n.flag("broadcast") or not n.has_attr("axis"):
        return b
    behind = n.rank(0) - n.axis(n.int_attr("axis"), n.rank(0)) - n.rank(1)
    if behind < 0:
        raise n.broken(f"has an operand of {n.rank(1)} axes, too many from axis {n.int_attr('axis')} on")
    return n.reshape(b, [*n.shape(1), *[1] * behind]) if behind else b


@op("Add", since=[1, 6, 7, 13, 14])
def add(n: Node) -> Any:
    return arithmetic(n, *_pair(n)[:2], relax.op.add, lambda p, q: p + q)


@op("Sub", since=[1, 6, 7, 13, 14])
def sub(n: Node) -> Any:
    ones = n.value(0).const
    if ones is not None and ones.size and is_float(n.dtype(0)) and (ones == 1).all():  # of an attention mask
        n.graph.limit_mask(n.x(1), n.scope.root().values.values())
    return arithmetic(n, *_pair(n)[:2], relax.op.subtract, lambda p, q: p - q)


@op("Mul", since=[1, 6, 7, 13, 14])
def mul(n: Node) -> Any:
    return arithmetic(n, *_pair(n)[:2], relax.op.multiply, lambda p, q: p * q)


@op("Div", since=[1, 6, 7, 13, 14])
def div(n: Node) -> Any:
    a, b, dtype = _pair(n)
    if is_float(dtype):
        return arithmetic(n, a, b, relax.op.divide, lambda p, q: p / q)
    return elementwise(n, lambda p, q: int_truncated(p, q, dtype), a, b)


def arithmetic(n: Node, a: Any, b: Any, function: Callable[[Any, Any], Any], scalar: Callable[[Any, Any], Any]) -> Any:
    """One operation; bfloat16 is computed in float32 and rounded at once, also where generated code is fused later."""
    if dtype_of(a) != "bfloat16":
        return function(a, b)
    f = "float32"
    return elementwise(n, lambda p, q: tirx.Cast("bfloat16", scalar(tirx.Cast(f, p), tirx.Cast(f, q))), a, b)


@op("Mod", since=[10, 13, 28])
def mod(n: Node) -> Any:
    a, b, dtype = _pair(n)
    fmod = n.flag("fmod")
    if is_float(dtype):
        if not fmod and n.version < 28:
            raise n.broken("must have fmod = 1 for floating point")
        wide = dtype if dtype in ("float32", "float64") else "float32"

        def element(p: Any, q: Any) -> Any:
            x, y = tirx.Cast(wide, p), tirx.Cast(wide, q)
            rest, zero = tirx.fmod(x, y), imm(0, wide)
            if not fmod:
                # The sign of the divisor, also for zeros.
                other = tirx.all(rest != zero, signs_differ(rest, y, zero))
                rest = select(rest == zero, tirx.copysign(zero, y), select(other, rest + y, rest))
            return tirx.Cast(dtype, rest)

        return elementwise(n, element, a, b)
    return elementwise(n, lambda p, q: int_rest(p, q, dtype, truncate=fmod), a, b)


@op("Pow", since=[1, 7, 12, 13, 15])
def pow_(n: Node) -> Any:
    (a, b), base = n.align(n.x(0), _second(n)), n.dtype(0)
    exponent = n.value(1)
    if is_float(base):
        if exponent.const is not None and exponent.const.size == 1:
            # Common in layer norm and GELU written out: small integer powers are products.
            e = float(exponent.const.reshape(()))
            if e == 2.0 and len(exponent.shape) <= n.rank(0):
                return relax.op.multiply(a, a)
        if dtype_of(b) == base and base in ("float32", "float64"):
            return relax.op.power(a, b)
        wide = "float64" if base == "float64" or (is_int(dtype_of(b)) and bits_of(dtype_of(b)) > 16) else "float32"
        return elementwise(n, lambda p, q: tirx.Cast(base, tirx.pow(tirx.Cast(wide, p), tirx.Cast(wide, q))), a, b)
    if is_int(dtype_of(b)):
        return _int_pow(n, a, b, base)

    # An integer base to a floating point power: numpy computes in float64 and converts back.
    def power(p: Any, q: Any) -> Any:
        return truncated(tirx.pow(tirx.Cast("float64", p), tirx.Cast("float64", q)), "float64", base)

    return elementwise(n, power, a, b)


def _int_pow(n: Node, a: Any, b: Any, base: str) -> Any:
    shape = n.math.broadcast(dims_of(a), dims_of(b))
    return n.te(int_powers, n.broadcast_to(a, shape), n.broadcast_to(b, shape), name="power")


@op("Sum", since=[1, 6, 8, 13])
def sum_(n: Node) -> Any:
    out = n.x(0)
    for i in range(1, len(n.inputs)):
        if n.dtype(i) != n.dtype(0):
            raise n.broken("has operands of different types")
        out, term = n.align(out, n.x(i))
        out = arithmetic(n, out, term, relax.op.add, lambda p, q: p + q)
        out = out if isinstance(out, relax.Var) else n.emit(out)
    return out


@op("Mean", since=[1, 6, 8, 13])
def mean(n: Node) -> Any:
    total = sum_(n)
    return relax.op.divide(total, n.scalar_const(len(n.inputs), n.dtype(0)))


@op("Max", since=[1, 6, 8, 12, 13])
def max_(n: Node) -> Any:
    return _extremum(n, greatest=True)


@op("Min", since=[1, 6, 8, 12, 13])
def min_(n: Node) -> Any:
    return _extremum(n, greatest=False)


def _extremum(n: Node, *, greatest: bool) -> Any:
    dtype = n.dtype(0)

    def pick(p: Any, q: Any) -> Any:
        if not is_float(dtype):
            return select(p > q, p, q) if greatest else select(p < q, p, q)
        # NaN in either operand is the result, as numpy has it.
        wins = p > q if greatest else p < q
        return select(tirx.any(wins, is_nan(p)), p, q)

    out = n.x(0)
    for i in range(1, len(n.inputs)):
        if n.dtype(i) != dtype:
            raise n.broken("has operands of different types")
        out = elementwise(n, pick, out, n.x(i))
    return out


# ---- one operand, floating point


def _unary(function: Callable[[Any], Any]) -> Callable[[Node], Any]:
    def convert(n: Node) -> Any:
        n.float_only()
        x = n.x(0)
        if n.dtype(0) in ("float16", "bfloat16"):
            return n.cast(n.emit(function(n.cast(x, "float32"))), n.dtype(0))
        return function(x)

    return convert


for _name, _versions, _function in (
    ("Exp", [1, 6, 13], relax.op.exp),
    ("Log", [1, 6, 13], relax.op.log),
    ("Sqrt", [1, 6, 13], relax.op.sqrt),
    ("Sin", [7, 22], relax.op.sin),
    ("Cos", [7, 22], relax.op.cos),
    ("Tan", [7, 22], relax.op.tan),
    ("Sinh", [9, 22], relax.op.sinh),
    ("Cosh", [9, 22], relax.op.cosh),
    ("Tanh", [1, 6, 13], relax.op.tanh),
    ("Sigmoid", [1, 6, 13], relax.op.sigmoid),
    ("Erf", [9, 13], relax.op.erf),
    ("Floor", [1, 6, 13], relax.op.floor),
    ("Ceil", [1, 6, 13], relax.op.ceil),
):
    op(_name, since=_versions)(_unary(_function))


def _unary_te(function: Callable[[Any], Any]) -> Callable[[Node], Any]:
    """A function of a scalar that TIR has but Relax has not, or has with other rounding."""

    def convert(n: Node) -> Any:
        n.float_only()
        dtype = n.dtype(0)
        wide = "float32" if dtype in ("float16", "bfloat16") else dtype
        return elementwise(n, lambda v: tirx.Cast(dtype, function(tirx.Cast(wide, v))), n.x(0))

    return convert


for _name, _versions, _function in (
    ("Asin", [7, 22], tirx.asin),
    ("Acos", [7, 22], tirx.acos),
    ("Atan", [7, 22], tirx.atan),
    ("Asinh", [9, 22], tirx.asinh),
    ("Acosh", [9, 22], tirx.acosh),
    ("Atanh", [9, 22], tirx.atanh),
    ("Round", [11, 22], tirx.nearbyint),
):
    op(_name, since=_versions)(_unary_te(_function))


@op("Reciprocal", since=[1, 6, 13])
def reciprocal(n: Node) -> Any:
    return relax.op.divide(n.scalar_const(1, n.dtype(0)), n.x(0))


@op("Neg", since=[1, 6, 13])
def neg(n: Node) -> Any:
    return relax.op.negative(n.x(0))


@op("Abs", since=[1, 6, 13])
def abs_(n: Node) -> Any:
    dtype = n.dtype(0)
    if is_float(dtype):
        return relax.op.abs(n.x(0))
    if not is_signed(dtype):
        return n.value(0)
    return elementwise(n, lambda v: select(v < imm(0, dtype), imm(0, dtype) - v, v), n.x(0))


@op("Sign", since=[9, 13])
def sign(n: Node) -> Any:
    dtype = n.dtype(0)
    zero, one = imm(0, dtype), imm(1, dtype)
    if not is_float(dtype) and not is_signed(dtype):
        return elementwise(n, lambda v: select(v > zero, one, zero), n.x(0))
    if not is_float(dtype):
        return elementwise(n, lambda v: select(v > zero, one, select(v < zero, imm(-1, dtype), zero)), n.x(0))
    return elementwise(
        n, lambda v: select(v > zero, one, select(v < zero, imm(-1, dtype), select(v == zero, zero, v))), n.x(0)
    )


@op("IsNaN", since=[9, 13, 20])
def is_nan_(n: Node) -> Any:
    return elementwise(n, is_nan, n.x(0))


@op("IsInf", since=[10, 20])
def is_inf(n: Node) -> Any:
    dtype = n.dtype(0)
    top, bottom = highest(dtype), lowest(dtype)
    both = []
    if n.flag("detect_positive", 1):
        both.append(top)
    if n.flag("detect_negative", 1):
        both.append(bottom)
    if not both:
        return elementwise(n, lambda v: imm(False, "bool"), n.x(0))
    return elementwise(n, lambda v: v == both[0] if len(both) == 1 else tirx.any(v == top, v == bottom), n.x(0))


# ---- activations


@op("Relu", since=[1, 6, 13, 14])
def relu(n: Node) -> Any:
    dtype = n.dtype(0)
    if dtype == "float32":
        return relax.op.nn.relu(n.x(0))
    return elementwise(n, lambda v: select(v < imm(0, dtype), imm(0, dtype), v), n.x(0))


@op("LeakyRelu", since=[1, 6, 16])
def leaky_relu(n: Node) -> Any:
    return relax.op.nn.leakyrelu(n.x(0), n.float_attr("alpha", 0.01))


@op("PRelu", since=[1, 6, 7, 9, 16])
def prelu(n: Node) -> Any:
    zero, slope = imm(0, n.dtype(0)), n.x(1)
    if n.version < 7 and n.rank(1) == 1 and n.rank(0) > 2:  # one slope for each channel
        slope = n.reshape(slope, [*n.shape(1), *[1] * (n.rank(0) - 2)])
    return elementwise(n, lambda v, by: select(v < zero, v * by, v), n.x(0), slope)


@op("Elu", since=[1, 6, 22])
def elu(n: Node) -> Any:
    alpha = n.float_attr("alpha", 1.0)
    return _in_float(n, lambda v, k: elementary.elu(v, alpha))


@op("Celu", since=[12, 28])
def celu(n: Node) -> Any:
    alpha = n.float_attr("alpha", 1.0)
    if alpha == 0 or not math.isfinite(alpha):
        raise n.broken(f"has alpha {alpha}, expected a finite number other than 0: it is divided by")
    return _in_float(n, lambda v, k: elementary.elu(v, alpha, 1.0, 1.0 / alpha))


@op("Selu", since=[1, 6, 22])
def selu(n: Node) -> Any:
    alpha = n.float_attr("alpha", 1.67326319217681884765625)
    gamma = n.float_attr("gamma", 1.05070102214813232421875)
    return _in_float(n, lambda v, k: elementary.elu(v, alpha, gamma))


@op("HardSigmoid", since=[1, 6, 22])
def hard_sigmoid(n: Node) -> Any:
    alpha, beta = n.float_attr("alpha", 0.2), n.float_attr("beta", 0.5)
    if n.dtype(0) == "float32":  # in operators that an epilogue is recognised by
        return _clipped_line(n, alpha, beta)
    return _in_float(n, lambda v, k: tirx.max(k(0), tirx.min(k(1), k(alpha) * v + k(beta))))


@op("HardSwish", since=[14, 22])
def hard_swish(n: Node) -> Any:
    if n.dtype(0) == "float32":  # x + 3 first: x / 6 and 0.5 would cancel near -3
        x = n.x(0)
        clipped = n.emit(relax.op.clip(n.emit(relax.op.add(x, n.scalar_const(3.0, "float32"))), 0.0, 6.0))
        return relax.op.multiply(n.emit(relax.op.multiply(x, clipped)), n.scalar_const(1 / 6, "float32"))
    return _in_float(n, lambda v, k: v * tirx.max(k(0), tirx.min(k(1), (v + k(3)) * k(1 / 6))))


def _clipped_line(n: Node, slope: float, height: float) -> Any:
    """max(0, min(1, slope * x + height)) of float32."""
    scaled = n.emit(relax.op.multiply(n.x(0), n.scalar_const(slope, "float32")))
    return relax.op.clip(n.emit(relax.op.add(scaled, n.scalar_const(height, "float32"))), 0.0, 1.0)


@op("Softplus", since=[1, 22])
def softplus(n: Node) -> Any:
    return _in_float(n, lambda v, k: elementary.softplus(v))


@op("Softsign", since=[1, 22])
def softsign(n: Node) -> Any:
    return _in_float(n, lambda v, k: v / (k(1) + tirx.abs(v)))


@op("ThresholdedRelu", since=[10, 22])
def thresholded_relu(n: Node) -> Any:
    alpha = n.float_attr("alpha", 1.0)
    return _in_float(n, lambda v, k: select(v > k(alpha), v, k(0)))


@op("Shrink", since=[9])
def shrink(n: Node) -> Any:
    bias, lambd = n.float_attr("bias", 0.0), n.float_attr("lambd", 0.5)
    dtype = n.dtype(0)
    if is_float(dtype):
        return _in_float(n, lambda v, k: select(v < k(-lambd), v + k(bias), select(v > k(lambd), v - k(bias), k(0))))

    def element(v: Any) -> Any:
        f = tirx.Cast("float64", v)
        b, lim = imm(bias, "float64"), imm(lambd, "float64")
        return tirx.Cast(dtype, select(f < -lim, f + b, select(f > lim, f - b, imm(0, "float64"))))

    return elementwise(n, element, n.x(0))


@op("Gelu", since=[20])
def gelu(n: Node) -> Any:
    n.float_only()
    function = relax.op.nn.gelu_tanh if n.choice("approximate", "none", "tanh") == "tanh" else relax.op.nn.gelu
    if n.dtype(0) in ("float16", "bfloat16"):
        return n.cast(n.emit(function(n.cast(n.x(0), "float32"))), n.dtype(0))
    return function(n.x(0))


@op("Mish", since=[18, 22])
def mish(n: Node) -> Any:
    return _in_float(n, lambda v, k: elementary.mish(v))


@op("Swish", since=[24])
def swish(n: Node) -> Any:
    alpha = n.float_attr("alpha", 1.0)
    if alpha == 1.0 and n.dtype(0) == "float32":
        return relax.op.nn.silu(n.x(0))
    return _in_float(n, lambda v, k: v / (k(1) + tirx.exp(k(0) - k(alpha) * v)))


def _in_float(n: Node, function: Callable[[Any, Callable[[float], Any]], Any]) -> Any:
    """function(v, k) at float32 or float64; k(c) makes a constant of that type. Half types are widened and rounded once."""
    n.float_only()
    dtype = n.dtype(0)
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype

    def constant(c: float) -> Any:
        return imm(c, wide)

    return elementwise(n, lambda v: tirx.Cast(dtype, function(tirx.Cast(wide, v), constant)), n.x(0))


@op("Clip", since=[6, 11, 12, 13])
def clip(n: Node) -> Any:
    dtype = n.dtype(0)
    if n.version < 11:
        low: Any = n.float_attr("min", None) if n.has_attr("min") else None
        high: Any = n.float_attr("max", None) if n.has_attr("max") else None
    else:
        low = n.value(1).const if n.has(1) else None
        high = n.value(2).const if n.has(2) else None
        if (n.has(1) and low is None) or (n.has(2) and high is None):
            return _clip_tensors(n, dtype)
        low = None if low is None else low.reshape(()).item()
        high = None if high is None else high.reshape(()).item()
    if low is None and high is None:
        return n.value(0)
    if dtype == "float32" and low is not None and high is not None and not (math.isnan(low) or math.isnan(high)):
        if low <= high:
            return relax.op.clip(n.x(0), low, high)
    if dtype == "float32" and low == 0.0 and high is None:
        return relax.op.nn.relu(n.x(0))

    def element(v: Any) -> Any:
        if low is not None:
            v = select(v < imm(low, dtype), imm(low, dtype), v)
        return v if high is None else select(v > imm(high, dtype), imm(high, dtype), v)

    return elementwise(n, element, n.x(0))


def _clip_tensors(n: Node, dtype: str) -> Any:
    out = n.x(0)
    for i, low in ((1, True), (2, False)):
        if n.has(i):
            bound = n.reshape(n.x(i), []) if n.rank(i) else n.x(i)
            out = elementwise(
                n, (lambda v, b: select(v < b, b, v)) if low else (lambda v, b: select(v > b, b, v)), out, bound
            )
    return out


# ---- comparison, logic, choice


def _compare(function: Callable[[Any, Any], Any]) -> Callable[[Node], Any]:
    def convert(n: Node) -> Any:
        a, b, _ = _pair(n)
        return function(a, b)

    return convert


for _name, _versions, _binary in (
    ("Greater", [1, 7, 9, 13], relax.op.greater),
    ("Less", [1, 7, 9, 13], relax.op.less),
    ("GreaterOrEqual", [12, 16], relax.op.greater_equal),
    ("LessOrEqual", [12, 16], relax.op.less_equal),
):
    op(_name, since=_versions)(_compare(_binary))


@op("Equal", since=[1, 7, 11, 13, 19])
def equal(n: Node) -> Any:
    if "string" in (n.dtype(0), n.dtype(1)):
        raise n.refuse("strings at run time")
    a, b, dtype = _pair(n)
    if dtype == "bool":
        return elementwise(n, lambda p, q: tirx.Cast("int8", p) == tirx.Cast("int8", q), a, b)
    return relax.op.equal(a, b)


@op("And", since=[1, 7])
def and_(n: Node) -> Any:
    a, b, _ = _pair(n)
    return relax.op.logical_and(a, b)


@op("Or", since=[1, 7])
def or_(n: Node) -> Any:
    a, b, _ = _pair(n)
    return relax.op.logical_or(a, b)


@op("Xor", since=[1, 7])
def xor(n: Node) -> Any:
    a, b, _ = _pair(n)
    return elementwise(n, lambda p, q: tirx.Cast("int8", p) != tirx.Cast("int8", q), a, b)


@op("Not", since=[1])
def not_(n: Node) -> Any:
    return relax.op.logical_not(n.x(0))


@op("Where", since=[9, 16])
def where(n: Node) -> Any:
    if n.dtype(1) != n.dtype(2):
        raise n.broken(f"has branches of different types, {n.dtype(1)} and {n.dtype(2)}")
    if n.dtype(1) == "string":
        raise n.refuse("strings at run time")
    return relax.op.where(*n.align(n.x(0), n.x(1), n.x(2)))


# ---- bits


@op("BitwiseAnd", since=[18])
def bitwise_and(n: Node) -> Any:
    a, b, _ = _pair(n)
    return relax.op.bitwise_and(a, b)


@op("BitwiseOr", since=[18])
def bitwise_or(n: Node) -> Any:
    a, b, _ = _pair(n)
    return relax.op.bitwise_or(a, b)


@op("BitwiseXor", since=[18])
def bitwise_xor(n: Node) -> Any:
    a, b, _ = _pair(n)
    return relax.op.bitwise_xor(a, b)


@op("BitwiseNot", since=[18])
def bitwise_not(n: Node) -> Any:
    dtype = n.dtype(0)
    ones = imm(-1 if is_signed(dtype) else (1 << bits_of(dtype)) - 1, dtype)
    return elementwise(n, lambda v: tirx.bitwise_xor(v, ones), n.x(0))


@op("BitShift", since=[11, 28])
def bit_shift(n: Node) -> Any:
    a, b, dtype = _pair(n)
    left = n.str_attr("direction") == "LEFT"
    return elementwise(n, lambda p, q: shifted(p, q, dtype, left=left), a, b)


@op("Identity", since=[1, 13, 14, 16, 19, 21, 23, 24, 25])
def identity(n: Node) -> Any:
    if not n.has(0):
        raise n.broken("lacks input 0")
    return n.inputs[0]


@op("Dropout", since=[1, 6, 7, 10, 12, 13, 22])
def dropout(n: Node) -> Any:
    if n.has(2) and (n.value(2).const is None or bool(n.scalar(2))):
        known = float(n.scalar(1)) if n.has(1) and n.value(1).const is not None else None
        if known != 0.0:
            return dropped(n)
    if n.version < 7 and not n.flag("is_test") and n.float_attr("ratio", 0.5) != 0.0:
        raise n.refuse("in training mode, before operator set 12")
    x = n.x(0)
    if len(n.proto.output) < 2:
        return n.value(0)
    dims = shape_expr(dims_of(x))
    mask = n.emit(relax.op.full(dims, constant(np.array(True)), "bool"))
    return [n.value(0), mask]
