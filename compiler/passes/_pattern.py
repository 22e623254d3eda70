"""Patterns as rows: what a pass recognises, written as the formula that it is, and the matcher that finds it.

    X = tensor("x")
    ROWS = Rows((X * op("sigmoid", X), "silu"), (log(op("exp", X) + 1), "softplus"))

A formula stands for every spelling of it. A product is number * a^p * b^q * ... however it was written: with divisions, with `square`,
`power`, `sqrt` and `rsqrt`, in any order and nesting; sums commute; `clip` is also minima and maxima with numbers. The number of a product
matches within 4 units in the last place of float32 (a few rounded constants were multiplied); numbers that are added, and bounds, exactly:
a near number is another function, which a pattern must leave alone.

What lies between the root and the tensors of a match is used nowhere else, so that it vanishes with the match; `shared` rows allow other uses
(a centred row is used by a norm twice). A name that occurs again stands for the same tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import tvm
from tvm import relax

from ._dims import same_shape, shape_of
from ._kernel_call import read_kernel_call
from ._rewrite import Rewriter, is_call, scalar_of, within_ulps

__all__ = ["Match", "Number", "Pattern", "Rows", "clip", "either", "kernel", "op", "scaled", "tensor"]

T = TypeVar("T")


@dataclass(frozen=True)
class Match:
    """What the names of a pattern stand for, and how often each tensor occurs."""

    tensors: dict[str, relax.Expr] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    occurrences: dict[str, int] = field(default_factory=dict)

    def with_tensor(self, name: str, expr: relax.Expr, times: int = 1) -> Match:
        occurrences = {**self.occurrences, name: self.occurrences.get(name, 0) + times}
        return replace(self, tensors={**self.tensors, name: expr}, occurrences=occurrences)

    def with_number(self, wanted: Number | float, value: float) -> Match | None:
        if isinstance(wanted, Number):
            return replace(self, numbers={**self.numbers, wanted.name: value})
        return self if value == wanted else None


@dataclass(frozen=True)
class Number:
    """Any number, by a name."""

    name: str


@dataclass(frozen=True)
class _Look:
    """How far a match may look: through what nobody else uses, or through anything."""

    rw: Rewriter
    shared: bool

    def definition(self, expr: relax.Expr) -> relax.Expr | None:
        return self.rw.definition(expr) if self.shared or self.rw.single_use(expr) else None


class Pattern:
    """A node of a formula. `roots`: the operators that the outermost call may be of."""

    roots: frozenset[str] = frozenset()

    def match(self, look: _Look, expr: relax.Expr, found: Match, times: int = 1) -> Iterator[Match]:
        """Every way in which `expr`, an operand that occurs `times` times, is this pattern."""
        value = look.definition(expr)
        return iter(()) if value is None else self.match_value(look, value, found)

    def match_value(self, look: _Look, value: relax.Expr, found: Match) -> Iterator[Match]:
        """The same, of the value of a binding; nothing for what only stands inside of a formula."""
        return iter(())

    def __add__(self, other: Pattern | Number | float) -> Pattern:
        return _Sum(self, other)

    def __mul__(self, other: Pattern | float) -> Pattern:
        mine = _product_of(self)
        if isinstance(other, Pattern):
            theirs = _product_of(other)
            return _Product(mine.number * theirs.number, (*mine.factors, *theirs.factors))
        return _Product(mine.number * other, mine.factors)

    __rmul__ = __mul__

    def __pow__(self, exponent: float) -> Pattern:
        return _Product(1.0, ((self, exponent),))


@dataclass(frozen=True)
class tensor(Pattern):
    """A tensor by its name; with a pattern: one of that form, whether it is computed once or again for each occurrence."""

    name: str
    form: Pattern | None = None

    def match(self, look: _Look, expr: relax.Expr, found: Match, times: int = 1) -> Iterator[Match]:
        known = found.tensors.get(self.name)
        if known is not None and known.same_as(expr):
            yield found.with_tensor(self.name, expr, times)
        elif self.form is not None:
            for each in self.form.match(look, expr, found):
                yield each.with_tensor(self.name, expr, times)
        elif known is None:
            yield found.with_tensor(self.name, expr, times)


@dataclass(frozen=True)
class _Op(Pattern):
    name: str
    operands: tuple[Pattern, ...]
    where: Callable[[relax.Call], bool] | None

    @property
    def roots(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({self.name})

    def match_value(self, look: _Look, value: relax.Expr, found: Match) -> Iterator[Match]:
        if is_call(value, self.name) and (self.where is None or self.where(value)):
            yield from _all(look, list(zip(self.operands, value.args)), found)


def op(name: str, *operands: Pattern, where: Callable[[relax.Call], bool] | None = None) -> Pattern:
    """A call of relax.NAME with these first operands."""
    return _Op("relax." + name, operands, where)


@dataclass(frozen=True)
class kernel(Pattern):
    """A call of a kernel without attributes, its first operand."""

    contract: str
    operand: Pattern

    def match_value(self, look: _Look, value: relax.Expr, found: Match) -> Iterator[Match]:
        call = read_kernel_call(value)
        if call is not None and call.contract == self.contract and not call.attrs and call.args[0] is not None:
            yield from self.operand.match(look, call.args[0], found)


@dataclass(frozen=True)
class either(Pattern):
    """One of two."""

    first: Pattern
    second: Pattern

    @property
    def roots(self) -> frozenset[str]:  # type: ignore[override]
        return self.first.roots | self.second.roots

    def match_value(self, look: _Look, value: relax.Expr, found: Match) -> Iterator[Match]:
        yield from self.first.match_value(look, value, found)
        yield from self.second.match_value(look, value, found)


@dataclass(frozen=True)
class clip(Pattern):
    """clip(x, low, high), or a minimum and a maximum with numbers, one of which may be missing (then infinite)."""

    operand: Pattern
    low: Number | float
    high: Number | float
    roots = frozenset({"relax.clip", "relax.maximum", "relax.minimum"})

    def match_value(self, look: _Look, value: relax.Expr, found: Match) -> Iterator[Match]:
        clipped = _clipped(look, value)
        if clipped is None:
            return
        source, low, high = clipped
        bounded = found.with_number(self.low, low)
        bounded = bounded.with_number(self.high, high) if bounded is not None else None
        if bounded is not None:
            yield from self.operand.match(look, source, bounded)


@dataclass(frozen=True)
class _Sum(Pattern):
    """A tensor and a number, or two tensors, in either order."""

    first: Pattern
    second: Pattern | Number | float
    roots = frozenset({"relax.add"})

    def match_value(self, look: _Look, value: relax.Expr, found: Match) -> Iterator[Match]:
        if not is_call(value, "relax.add"):
            return
        if isinstance(self.second, Pattern):
            left, right = value.args
            yield from _all(look, [(self.first, left), (self.second, right)], found)
            yield from _all(look, [(self.first, right), (self.second, left)], found)
            return
        x, number = _with_number(value)
        added = None if x is None or number is None else found.with_number(self.second, number)
        if added is not None:
            yield from self.first.match(look, x, added)


@dataclass(frozen=True)
class scaled(Pattern):
    """A tensor times whatever numbers, which are multiplied into one (1 where there are none)."""

    number: Number
    operand: Pattern

    def match(self, look: _Look, expr: relax.Expr, found: Match, times: int = 1) -> Iterator[Match]:
        number = 1.0
        while is_call(value := look.definition(expr), "relax.multiply", "relax.divide"):
            x, factor = _with_number(value)
            divides = is_call(value, "relax.divide")
            if (
                x is None
                or not factor
                or (divides and not x.same_as(value.args[0]))
                or not same_shape(shape_of(x), shape_of(expr))
            ):
                break
            number = number / factor if divides else number * factor
            expr = x
        scale = found.with_number(self.number, number)
        assert scale is not None
        return self.operand.match(look, expr, scale)


@dataclass(frozen=True)
class _Product(Pattern):
    number: float
    factors: tuple[tuple[Pattern, float], ...]
    roots = frozenset({"relax.multiply", "relax.divide"})

    def match_value(self, look: _Look, value: relax.Expr, found: Match) -> Iterator[Match]:
        number, powers = _powers(look, value)
        near = number == 1.0 if self.number == 1.0 else within_ulps(number, self.number, 4, "float32")
        if near and len(powers) == len(self.factors):
            yield from _assigned(look, self.factors, powers, found)


def _product_of(pattern: Pattern) -> _Product:
    return pattern if isinstance(pattern, _Product) else _Product(1.0, ((pattern, 1.0),))


def _all(look: _Look, pairs: list[tuple[Pattern, relax.Expr]], found: Match) -> Iterator[Match]:
    if not pairs:
        yield found
        return
    (pattern, expr), *rest = pairs
    for each in pattern.match(look, expr, found):
        yield from _all(look, rest, each)


@dataclass
class _Power:
    """base ^ exponent, in which `base` occurs `times` times."""

    base: relax.Expr
    exponent: float
    times: int


def _assigned(
    look: _Look, factors: tuple[tuple[Pattern, float], ...], powers: list[_Power], found: Match
) -> Iterator[Match]:
    """Every way to give each factor a power of its own."""
    if not factors:
        yield found
        return
    (pattern, exponent), rest = factors[0], factors[1:]
    for index, power in enumerate(powers):
        if power.exponent == exponent:
            for each in pattern.match(look, power.base, found, power.times):
                yield from _assigned(look, rest, powers[:index] + powers[index + 1 :], each)


# What an operator of one tensor raises it to.
_RAISES = {"relax.square": 2.0, "relax.sqrt": 0.5, "relax.rsqrt": -0.5}


def _powers(look: _Look, value: relax.Expr) -> tuple[float, list[_Power]]:
    """A value as number * base ^ exponent * ...; empty if it is no product. Only integral powers go into what they raise: (x^2)^0.5 is not x;
    and a product that others use too is one factor, also where a match may be shared."""
    number, powers = 1.0, list[_Power]()
    todo = _taken_apart(value) or []
    while todo:
        expr, exponent = todo.pop(0)
        constant = scalar_of(expr)
        if constant is not None and (constant > 0 or (constant < 0 and exponent.is_integer())):
            number *= constant**exponent
            continue
        inner = look.definition(expr) if exponent.is_integer() else None
        if is_call(inner, "relax.multiply", "relax.divide") and not look.rw.single_use(expr):
            inner = None
        factors = _taken_apart(inner)
        if factors is not None:
            todo = [(x, exponent * power) for x, power in factors] + todo
            continue
        same = next((power for power in powers if power.base.same_as(expr)), None)
        if same is None:
            powers.append(_Power(expr, exponent, 1))
        else:
            same.exponent, same.times = same.exponent + exponent, same.times + 1
    return number, powers


def _taken_apart(value: relax.Expr | None) -> list[tuple[relax.Expr, float]] | None:
    """The factors of a call and what each is raised to."""
    if is_call(value, "relax.multiply"):
        return [(value.args[0], 1.0), (value.args[1], 1.0)]
    if is_call(value, "relax.divide"):
        return [(value.args[0], 1.0), (value.args[1], -1.0)]
    if is_call(value, "relax.power"):
        exponent = scalar_of(value.args[1])
        return None if exponent is None else [(value.args[0], exponent)]
    if is_call(value, *_RAISES):
        return [(value.args[0], _RAISES[str(value.op.name)])]
    return None


def _with_number(call: relax.Call) -> tuple[relax.Expr | None, float | None]:
    """(x, c) of a call with a number on one side; x must have the result's rank."""
    for x, c in ((call.args[0], call.args[1]), (call.args[1], call.args[0])):
        number = scalar_of(c)
        if number is not None and x.ty.ndim >= c.ty.ndim:
            return x, number
    return None, None


def _clipped(look: _Look, value: relax.Call) -> tuple[relax.Expr, float, float] | None:
    """(x, low, high) of a call that bounds x."""
    if is_call(value, "relax.clip"):
        low, high = (getattr(arg, "value", None) for arg in value.args[1:3])
        return None if low is None or high is None else (value.args[0], float(low), float(high))
    if not is_call(value, "relax.maximum", "relax.minimum"):
        return None
    source, bound = _with_number(value)
    if source is None or bound is None:
        return None
    is_maximum = is_call(value, "relax.maximum")
    low, high = (bound, math.inf) if is_maximum else (-math.inf, bound)
    inner = look.definition(source)
    if is_call(inner, "relax.minimum" if is_maximum else "relax.maximum"):
        base, second = _with_number(inner)
        if base is not None and second is not None:
            low, high = (low, second) if is_maximum else (second, high)
            return (base, low, high) if low <= high else None
    return source, low, high


class Rows(Generic[T]):
    """Formulas and what each is; the first that matches a value is taken."""

    def __init__(self, *rows: tuple[Pattern, T], shared: bool = False) -> None:
        self._shared = shared
        self._by_root: dict[str, list[tuple[Pattern, T]]] = {}
        for pattern, meaning in rows:
            for root in pattern.roots:
                self._by_root.setdefault(root, []).append((pattern, meaning))

    def find(self, rw: Rewriter, value: relax.Expr) -> tuple[T, Match] | None:
        """What the value of a binding is, and what the names of the formula stand for."""
        if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op):
            return None
        look = _Look(rw, self._shared)
        for pattern, meaning in self._by_root.get(str(value.op.name), ()):
            for found in pattern.match_value(look, value, Match()):
                return meaning, found
        return None
