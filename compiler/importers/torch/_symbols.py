"""Symbolic sizes: from torch's sympy expressions over `s0`, `u0` to TIR expressions over named variables, with bounds."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import sympy
import torch
from torch.utils._sympy import functions as tf
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.symbol import SymT, symbol_is_type
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy
from tvm import tirx
from tvm.ir import Range
from tvm.sym import Analyzer

from .._imported import Condition, SymbolSpec
from .._scaled import MAX_EXTENT, ratio_of
from ._registry import NotConvertible

__all__ = ["Dim", "Symbols"]

Dim = Any  # a Python int or a TIR expression of dtype int64


class Symbols:
    """The symbols of one model. `names` gives a readable name for a sympy symbol's name, where one is known."""

    def __init__(self, ranges: dict[Any, Any], names: dict[str, str]) -> None:
        self._ranges = {str(symbol): bounds for symbol, bounds in ranges.items()}
        self._names = names
        self._defined: dict[str, Dim] = {}
        self._meanings: dict[Any, Dim] = {}  # of sums, quotients, ...
        self.specs: dict[str, SymbolSpec] = {}
        self.signed_parts: set[str] = set()  # variables whose difference may be negative
        self.shapes: set[str] = set()  # variables that the inputs' shapes give
        self.conditions: list[Condition] = []  # what sizes must be for expressions of them to hold
        self.narrowed: dict[str, str] = {}  # variables that are at least 2, and what said so

    def dim(self, size: int | torch.SymInt) -> Dim:
        """A size as torch gives it, as an int or a TIR expression."""
        if isinstance(size, torch.SymInt):
            return self.convert(size.node.expr)
        return int(size)

    def dims(self, shape: Any) -> list[Dim]:
        return [self.dim(size) for size in shape]

    def knows(self, size: int | torch.SymInt) -> bool:
        """Whether all symbols of the size have a value so far."""
        return not isinstance(size, torch.SymInt) or all(str(s) in self._defined for s in size.node.expr.free_symbols)

    def define(self, symbol: Any, value: Dim) -> None:
        """The symbol is known to be `value` from here on."""
        self._defined[str(symbol)] = value

    def define_as(self, expression: Any, value: Dim) -> None:
        """The expression, wherever it occurs, is known to be `value` from here on; a symbol keeps its own meaning."""
        if not isinstance(expression, sympy.Symbol):
            self._meanings[expression] = value

    def defines(self, symbol: Any) -> bool:
        """Whether a torch symbol has a value so far."""
        return str(symbol) in self._defined

    def variable(self, symbol: Any) -> str:
        """The name of the variable that a torch symbol is; "" where it is none, or an expression of others."""
        return str(getattr(self._defined.get(str(symbol)), "name", ""))

    def new(self, symbol: Any) -> Any:
        """A variable of its own for the symbol, with the bounds that torch knows."""
        low, high = self.bounds(symbol)
        variable = self._variable(self._names.get(str(symbol), str(symbol)), SymbolSpec(low, high))
        self.define(symbol, variable)
        return variable

    def may_be_negative(self, symbol: Any) -> bool:
        """Whether a number that is read from data may be below zero: sizes never are."""
        low = self.bounds(symbol)[0]
        return low < 0

    def new_signed(self, symbol: Any) -> tuple[Any, Any]:
        """Two variables p and n for a number that may be negative, which is p - n: TVM takes every variable to be at least 0."""
        low, high = self.bounds(symbol)
        name = self._names.get(str(symbol), str(symbol))
        above = self._variable(f"{name}_above", SymbolSpec(0, None if high is None else max(high, 0)))
        below = self._variable(f"{name}_below", SymbolSpec(0, None if low <= -(2**62) else -low))
        self.define(symbol, above - below)
        self.signed_parts.update((above.name, below.name))
        return above, below

    def declare(self, size: int | torch.SymInt, fallback: str) -> Dim:
        """The size of an input's dimension: new symbols get a variable, named `fallback` if torch knows no name.

        A derived size whose root is no input dimension of its own: s + 1 gets a variable t, and s becomes t - 1; 2*s stays, with a
        variable for s.
        """
        if not isinstance(size, torch.SymInt) or self.knows(size):
            return self.dim(size)
        expression = size.node.expr
        if isinstance(expression, sympy.Symbol):
            self._names.setdefault(str(expression), fallback)
            declared = self.new(expression)
        else:
            declared = self._declare_derived(expression, fallback)
        self.shapes.update(str(variable.name) for variable in tirx.analysis.undefined_vars(declared))
        return declared

    def _declare_derived(self, expression: Any, fallback: str) -> Dim:
        free = list(expression.free_symbols)
        root = free[0]
        scale = expression.coeff(root, 1) if len(free) == 1 else 0
        offset = sympy.expand(expression - scale * root) if scale else 0
        if not isinstance(scale, sympy.Integer) or scale < 1 or not isinstance(offset, sympy.Integer):
            raise NotConvertible(f"an input dimension of size {expression}, from which its symbols cannot be found")
        a, b = int(scale), int(offset)
        if (
            a > 1
        ):  # all other sizes are multiples of the root too, and prove equal only in its terms; the plan solves for it
            return self.new(root) * a + b
        low, high = self.bounds(root)
        variable = self._variable(fallback, SymbolSpec(max(low + b, 0), None if high is None else high + b))
        self.define(root, variable - b)
        return variable

    def from_inputs(self, size: Dim) -> bool:
        """Whether the inputs' shapes alone decide the size."""
        return isinstance(size, int) or all(str(v.name) in self.shapes for v in tirx.analysis.undefined_vars(size))

    def has_second(self, size: Dim, why: str = "") -> None:
        """An operator reads a second element along a dimension of this size, or does what `why` says that asks for two. torch reports a
        least size of 2 where it found that out as where it only assumed it (`bounds`): this tells which."""
        spec = self.specs.get(str(size.name)) if isinstance(size, tirx.Var) else None
        if spec is not None and spec.min == 1 and spec.max != 1:
            self.specs[str(size.name)] = replace(spec, min=2)
            self.narrowed[str(size.name)] = why

    def is_not_one(self, size: Dim) -> None:
        """An operator drops a dimension of this size where it is 1: bounds that begin at 1 begin at 2 instead."""
        self.has_second(size, "squeeze drops it where it is 1")
        if isinstance(size, int):
            return
        analyzer = Analyzer()
        for variable in tirx.analysis.undefined_vars(size):
            spec = self.specs[str(variable.name)]
            analyzer.bind(variable, Range(_as_expr(spec.min), _as_expr(2**40 if spec.max is None else spec.max + 1)))
        if not analyzer.can_prove(size != 1):
            raise NotConvertible(
                f"a dimension of size {size}, which is dropped where it is 1: name those that are to be dropped"
            )

    def _variable(self, name: str, spec: SymbolSpec) -> Any:
        name = re.sub(r"\W", "_", name)
        while name in self.specs:
            name += "_"
        self.specs[name] = spec
        return tirx.Var(name, "int64")

    def bounds(self, symbol: Any) -> tuple[int, int | None]:
        """The least and the largest value that torch knows of a symbol."""
        bounds, of_data = self._ranges.get(str(symbol)), symbol_is_type(symbol, SymT.UNBACKED_INT)
        if bounds is None:  # torch keeps no bounds of a number that a nested graph reads from data
            return (-(2**63), None) if of_data else (1, None)
        low, high = _finite(bounds.lower), _finite(bounds.upper)
        if of_data:
            return -(2**63) if low is None else low, high
        # torch reports 2 where it only assumed "neither 0 nor 1", and does not hold callers to it; empty tensors are refused.
        return 1 if low is None or low <= 2 else low, high

    def convert(self, expression: Any) -> Dim:
        """A sympy expression as an int or a TIR expression; undefined symbols are NotConvertible."""
        if isinstance(expression, (sympy.Integer, int)):
            return int(expression)
        if isinstance(expression, sympy.Symbol):
            if str(expression) not in self._defined:
                raise NotConvertible(f"size {expression}, which only the data decides")
            return self._defined[str(expression)]
        if expression in self._meanings:
            return self._meanings[expression]
        if _is_rounded_quotient(expression):
            a, b = (self.convert(argument) for argument in expression.args[0].args)
            return _ceildiv(a, b) if isinstance(expression, tf.CeilToInt) else _floordiv(a, b)
        if isinstance(expression, (tf.TruncToInt, tf.FloorToInt)):
            return self._scaled(expression)
        handler = _HANDLERS.get(type(expression))
        if handler is None:
            raise NotConvertible(f"the size expression {expression}")
        return handler(*[self.convert(argument) for argument in expression.args])

    def truth(self, relation: Any) -> Any:
        """A relation of sizes as a TIR truth; what is no arithmetic of whole numbers is NotConvertible."""
        if relation in (sympy.true, sympy.false):
            return tirx.IntImm("bool", int(relation == sympy.true))
        if isinstance(relation, sympy.Not):
            return tirx.Not(self.truth(relation.args[0]))
        if isinstance(relation, (sympy.And, sympy.Or)):
            join = tirx.And if isinstance(relation, sympy.And) else tirx.Or
            return reduce(join, [self.truth(argument) for argument in relation.args])
        compare = _TRUTHS.get(type(relation))
        if compare is None:
            raise NotConvertible(f"the condition {relation}")
        return compare(*[_as_expr(self.convert(side)) for side in _whole(relation)])

    def _scaled(self, expression: Any) -> Dim:
        """A size times a number, rounded down as torch's double precision does it, whatever the sizes within their bounds."""
        factor, size = expression.args[0].as_coeff_Mul()
        if not isinstance(size, tf.ToFloat) or factor <= 0:
            raise NotConvertible(f"the size expression {expression}")
        return self.scaled(size.args[0], float(factor))

    def scaled(self, size: Any, factor: float) -> Dim:
        """trunc(factor * size) of a sympy expression, or a number."""
        extent = self.convert(size)
        if isinstance(extent, int):
            return int(factor * extent)
        low, high = self._span(size)
        ratio = ratio_of(
            factor, max(low, 0), min(high, MAX_EXTENT), lambda sizes: np.trunc(factor * sizes).astype(np.int64)
        )
        if ratio is None:
            raise NotConvertible(
                f"sizes times {factor}, whose rounding is that of no fraction: give the size itself, or narrower bounds"
            )
        if high > MAX_EXTENT:
            message = f"a size times {factor} was rounded for sizes up to {MAX_EXTENT}: give such ones, or compile it with bounds"
            self.conditions.append(Condition(extent <= MAX_EXTENT, message))
        return _floordiv(_product(extent, ratio.numerator), ratio.denominator)

    def _span(self, size: Any) -> tuple[int, int]:
        """The least and the largest value of an expression, 2**62 for none."""
        spans = {}
        for symbol in size.free_symbols:
            low, high = self.bounds(symbol)
            spans[symbol] = ValueRanges(low, int_oo if high is None else high)
        found = bound_sympy(size, spans)
        lower, upper = _finite(found.lower), _finite(found.upper)
        return 0 if lower is None else lower, 2**62 if upper is None else upper


def _finite(bound: Any) -> int | None:
    try:
        value = int(bound)
    except (TypeError, ValueError, OverflowError, AttributeError):  # what an infinite bound raises
        return None
    return value if abs(value) < 2**62 else None


def _sum(*terms: Dim) -> Dim:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _product(*factors: Dim) -> Dim:
    total = factors[0]
    for factor in factors[1:]:
        total = total * factor
    return total


def _power(base: Dim, exponent: Dim) -> Dim:
    if not isinstance(exponent, int) or exponent < 1:
        raise NotConvertible("a size with a negative or symbolic power")
    return _product(*[base] * exponent)


def _whole(relation: Any) -> list[Any]:
    """Both sides of a relation, times what makes a quotient of sizes, and the number that it is compared with, whole."""
    sides: list[Any] = list(relation.args)
    for i, side in enumerate(sides):
        if isinstance(side, tf.IntTrueDiv) and isinstance(side.args[1], sympy.Integer) and side.args[1] > 0:
            sides[i], sides[1 - i] = side.args[0], sides[1 - i] * side.args[1]
    for i, side in enumerate(sides):
        if isinstance(side, sympy.Float):
            exact = sympy.Rational(*float(side).as_integer_ratio())
            if exact.q > 2**20:
                raise NotConvertible(f"the number {side} beside sizes")
            sides[i], sides[1 - i] = sympy.Integer(exact.p), sides[1 - i] * exact.q
    return sides


def _as_expr(value: Dim) -> Any:
    return tirx.IntImm("int64", value) if isinstance(value, int) else value


def _minimum(*values: Dim) -> Dim:
    best = values[0]
    for value in values[1:]:
        best = tirx.min(_as_expr(best), _as_expr(value))
    return best


def _maximum(*values: Dim) -> Dim:
    best = values[0]
    for value in values[1:]:
        best = tirx.max(_as_expr(best), _as_expr(value))
    return best


def _floordiv(a: Dim, b: Dim) -> Dim:
    return tirx.floordiv(_as_expr(a), _as_expr(b))


def _is_rounded_quotient(expression: Any) -> bool:
    """math.ceil(n / 2) and its like: whole numbers, although torch divides in floating point."""
    if not isinstance(expression, (tf.CeilToInt, tf.FloorToInt, tf.TruncToInt)):
        return False
    quotient = expression.args[0]
    if not isinstance(quotient, tf.IntTrueDiv) or not quotient.args[1].is_positive:
        return False
    return not isinstance(expression, tf.TruncToInt) or bool(quotient.args[0].is_nonnegative)


def _ceildiv(a: Dim, b: Dim) -> Dim:
    return -tirx.floordiv(-_as_expr(a), _as_expr(b))


def _floormod(a: Dim, b: Dim) -> Dim:
    return tirx.floormod(_as_expr(a), _as_expr(b))


_TRUTHS: dict[type, Any] = {
    sympy.Eq: tirx.EQ,
    sympy.Ne: tirx.NE,
    sympy.StrictLessThan: tirx.LT,
    sympy.LessThan: tirx.LE,
    sympy.StrictGreaterThan: tirx.GT,
    sympy.GreaterThan: tirx.GE,
}
_HANDLERS: dict[type, Any] = {
    sympy.Add: _sum,
    sympy.Mul: _product,
    sympy.Pow: _power,
    tf.PowByNatural: _power,
    tf.FloorDiv: _floordiv,
    tf.CleanDiv: _floordiv,
    tf.Mod: _floormod,
    tf.PythonMod: _floormod,
    tf.ModularIndexing: lambda base, divisor, modulus: _floormod(_floordiv(base, divisor), modulus),
    tf.Max: _maximum,
    tf.Min: _minimum,
    sympy.Max: _maximum,
    sympy.Min: _minimum,
}
