"""Recognises activations, whole or in pieces, as the epilogue of a kernel understands them (docs/kernels.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tvm import relax

from ._rewrite import Rewriter, is_call, scalar_of, within_ulps

__all__ = ["Activation", "recognise"]


@dataclass(frozen=True)
class Activation:
    """`act(source)`, in which `source` occurs `occurrences` times."""

    source: relax.Expr
    act: str
    args: list[float] = field(default_factory=list)
    occurrences: int = 1


_WHOLE = {
    "relax.nn.relu": "relu",
    "relax.sigmoid": "sigmoid",
    "relax.tanh": "tanh",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
    "relax.nn.silu": "silu",
    "relax.exp": "exp",
    "relax.sqrt": "sqrt",
    "relax.abs": "abs",
}


# (x + 3) / 6 as a x + b: the float32 below 1/6, three times which is a float32, so that the line is exactly 0 at -3.
_SIXTH = float.fromhex("0x1.555554p-3")


def recognise(rw: Rewriter, value: relax.Expr) -> Activation | None:
    """The outermost activation that a binding's value is; None if it is none."""
    if not is_call(value):
        return None
    name = str(value.op.name)
    if name in _WHOLE:
        return Activation(value.args[0], _WHOLE[name])
    if name == "relax.nn.relu6":
        return Activation(value.args[0], "clip", [0.0, 6.0])
    if name == "relax.nn.leakyrelu":
        return Activation(value.args[0], "leaky_relu", [float(value.attrs.alpha)])
    if name == "relax.nn.softplus" and float(value.attrs.beta) == 1.0 and float(value.attrs.threshold) >= 15.0:
        return Activation(value.args[0], "softplus")
    if name == "relax.log":
        return _softplus(rw, value)
    if name in ("relax.clip", "relax.maximum", "relax.minimum"):
        return _clip_like(rw, value)
    if name in ("relax.multiply", "relax.divide"):
        return _product(rw, value)
    return None


def _clip_like(rw: Rewriter, value: relax.Expr) -> Activation | None:
    clipped = _clip(rw, value)
    if clipped is None:
        return None
    source, low, high = clipped
    if (low, high) == (0.0, 1.0):
        line = _line(rw, source)
        if line is not None:
            return Activation(line[0], "hardsigmoid", [line[1], line[2]])
    if low == 0.0 and high == math.inf:
        return Activation(source, "relu")
    return Activation(source, "clip", [low, high])


def _clip(rw: Rewriter, value: relax.Expr | None) -> tuple[relax.Expr, float, float] | None:
    """(x, low, high) of clip(x, low, high) or minima and maxima with numbers."""
    if is_call(value, "relax.clip"):
        low, high = (getattr(arg, "value", None) for arg in value.args[1:3])
        return None if low is None or high is None else (value.args[0], float(low), float(high))
    for name, other in (("relax.maximum", "relax.minimum"), ("relax.minimum", "relax.maximum")):
        if not is_call(value, name):
            continue
        source, bound = _with_number(value)
        if source is None or bound is None:
            return None
        low, high = (bound, math.inf) if name == "relax.maximum" else (-math.inf, bound)
        inner = rw.call(source, other)
        if inner is not None and rw.single_use(source):
            base, second = _with_number(inner)
            if base is not None and second is not None:
                low, high = (low, second) if other == "relax.minimum" else (second, high)
                return (base, low, high) if low <= high else None
        return source, low, high
    return None


def _with_number(call: relax.Call) -> tuple[relax.Expr | None, float | None]:
    """(x, c) of a commutative call with a number on one side; x must have the result's shape."""
    for x, c in ((call.args[0], call.args[1]), (call.args[1], call.args[0])):
        number = scalar_of(c)
        if number is not None and x.ty.ndim >= c.ty.ndim:
            return x, number
    return None, None


def _factors(rw: Rewriter, value: relax.Expr) -> tuple[float, list[relax.Expr]]:
    """A product as (number, what is multiplied): multiplications, and divisions by numbers, that nobody else uses."""
    number, rest = 1.0, []
    todo = list(value.args) if is_call(value, "relax.multiply") else []
    if is_call(value, "relax.divide"):
        divisor = scalar_of(value.args[1])
        if not divisor:
            return 1.0, []
        number, todo = 1.0 / divisor, [value.args[0]]
    while todo:
        item = todo.pop(0)
        constant = scalar_of(item)
        if constant is not None:
            number *= constant
            continue
        inner = rw.call(item, "relax.multiply", "relax.divide")
        if inner is not None and rw.single_use(item):
            if is_call(inner, "relax.multiply"):
                todo = [*inner.args, *todo]
                continue
            divisor = scalar_of(inner.args[1])
            if divisor:
                number /= divisor
                todo = [inner.args[0], *todo]
                continue
        rest.append(item)
    return number, rest


def _line(rw: Rewriter, expr: relax.Expr) -> tuple[relax.Expr, float, float] | None:
    """(x, a, b) of a * x + b."""
    added = rw.call(expr, "relax.add")
    if added is None or not rw.single_use(expr):
        return None
    x, b = _with_number(added)
    if x is None or b is None:
        return None
    number, rest = _scaled(rw, x)
    return rest, number, b


def _scaled(rw: Rewriter, expr: relax.Expr) -> tuple[float, relax.Expr]:
    """(c, x) of c * x, (1, expr) if it is no such product."""
    inner = rw.call(expr, "relax.multiply", "relax.divide")
    if inner is not None and rw.single_use(expr):
        number, rest = _factors(rw, inner)
        if len(rest) == 1:
            return number, rest[0]
    return 1.0, expr


def _near(a: float, b: float) -> bool:
    """Whether a number of a float32 model stands for b: products of a few rounded constants do, other constants do not."""
    return within_ulps(a, b, 4, "float32")


def _product(rw: Rewriter, value: relax.Call) -> Activation | None:
    number, rest = _factors(rw, value)
    if len(rest) == 1 and _near(number, 1 / 6):
        clipped = _clip(rw, rw.definition(rest[0])) if rw.single_use(rest[0]) else None
        line = _line(rw, clipped[0]) if clipped is not None and clipped[1:] == (0.0, 6.0) else None
        if line is not None and line[1:] == (1.0, 3.0):
            return Activation(line[0], "hardsigmoid", [_SIXTH, 3 * _SIXTH])
    if len(rest) != 2:
        return None
    for x, gate in (rest, reversed(rest)):
        if not rw.single_use(gate):
            continue
        found = _gated(rw, x, gate, number)
        if found is not None:
            return found
    return None


def _gated(rw: Rewriter, x: relax.Expr, gate: relax.Expr, number: float) -> Activation | None:
    """number * x * gate(x)."""
    inner = rw.definition(gate)
    if is_call(inner, "relax.sigmoid") and inner.args[0].same_as(x) and number == 1.0:
        return Activation(x, "silu", [], 2)
    if is_call(inner, "relax.tanh") and number == 1.0:
        soft = recognise(rw, rw.definition(inner.args[0])) if rw.single_use(inner.args[0]) else None
        if soft is not None and soft.act == "softplus" and soft.source.same_as(x):
            return Activation(x, "mish", [], 2)
    if is_call(inner, "relax.clip", "relax.minimum", "relax.maximum"):
        clipped = _clip(rw, inner)
        line = _line(rw, clipped[0]) if clipped is not None else None
        if clipped is not None and line is not None and line[0].same_as(x):
            if clipped[1:] == (0.0, 6.0) and line[1:] == (1.0, 3.0) and _near(number, 1 / 6):
                return Activation(x, "hardswish", [], 2)
            if clipped[1:] == (0.0, 1.0) and _near(line[1], 1 / 6) and line[2] == 0.5 and number == 1.0:
                return Activation(x, "hardswish", [], 2)
    if is_call(inner, "relax.add") and _near(number, 0.5):
        wave, one = _with_number(inner)
        if wave is not None and one == 1.0 and rw.single_use(wave):
            return _gelu(rw, x, rw.definition(wave))
    return None


def _gelu(rw: Rewriter, x: relax.Expr, wave: relax.Expr | None) -> Activation | None:
    """0.5 * x * (1 + wave(x)), with erf(x / sqrt(2)) or tanh(sqrt(2 / pi) (x + 0.044715 x^3))."""
    if is_call(wave, "relax.erf"):
        number, inside = _scaled(rw, wave.args[0])
        return Activation(x, "gelu", [], 2) if _near(number, math.sqrt(0.5)) and inside.same_as(x) else None
    if not is_call(wave, "relax.tanh") or not rw.single_use(wave.args[0]):
        return None
    number, rest = _factors(rw, rw.definition(wave.args[0]))
    if not _near(number, math.sqrt(2 / math.pi)):
        return None
    if len(rest) == 1:
        added = rw.call(rest[0], "relax.add")
        if added is None or not rw.single_use(rest[0]):
            return None
        for linear, cubic in (added.args, reversed(added.args)):
            uses = _power(rw, cubic, x, 3)
            if linear.same_as(x) and uses:
                return Activation(x, "gelu_tanh", [], 2 + uses)
    if len(rest) == 2:
        for linear, factor in (rest, reversed(rest)):
            added = rw.call(factor, "relax.add")
            if not linear.same_as(x) or added is None or not rw.single_use(factor):
                continue
            square, one = _with_number(added)
            uses = _power(rw, square, x, 2) if square is not None and one == 1.0 else 0
            if uses:
                return Activation(x, "gelu_tanh", [], 2 + uses)
    return None


def _power(rw: Rewriter, expr: relax.Expr, x: relax.Expr, exponent: int) -> int:
    """How often x occurs in 0.044715 * x^exponent; 0 if that is not what `expr` is."""
    number, rest = _factors(rw, rw.definition(expr))
    if not rw.single_use(expr) or not _near(number, 0.044715):
        return 0
    uses, degree = 0, 0.0
    for item in rest:
        power = rw.definition(item)
        if item.same_as(x):
            uses, degree = uses + 1, degree + 1
        elif is_call(power, "relax.power") and power.args[0].same_as(x) and rw.single_use(item):
            uses, degree = uses + 1, degree + (scalar_of(power.args[1]) or 0.0)
        elif is_call(power, "relax.square") and power.args[0].same_as(x) and rw.single_use(item):
            uses, degree = uses + 1, degree + 2
        else:
            return 0
    return uses if degree == exponent else 0


def _softplus(rw: Rewriter, value: relax.Call) -> Activation | None:
    """log(1 + exp(x))."""
    added = rw.call(value.args[0], "relax.add")
    if added is None or not rw.single_use(value.args[0]):
        return None
    raised, one = _with_number(added)
    inner = rw.call(raised, "relax.exp") if raised is not None and one == 1.0 and rw.single_use(raised) else None
    return None if inner is None else Activation(inner.args[0], "softplus")
