"""What decisions that were taken while a model was traced ask of a run's sizes, where the declared bounds do not imply it.

A bound or a divisor becomes part of what the model declares; anything else is a condition that each run checks. A decision whose other
side computes the same (most often how to compute it) asks for nothing: the module and its trace are run at sizes of that side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.printers import PythonPrinter
from torch.utils._sympy.symbol import SymT, symbol_is_type
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from maas_rt._errors import ImportModelError

from .._imported import Condition, ImportedModel, SymbolSpec
from ._decisions import Decision, value_at
from ._registry import NotConvertible
from ._symbols import Symbols

__all__ = ["Binding", "Verdict", "conditioned", "with_extents"]

Binding = Mapping[Any, int]  # torch's symbols and their sizes
Verdict = Callable[
    [Binding], bool | None
]  # whether trace and model agree at some sizes; None where the model itself does not run there
_ALL = 1024  # sizes that are tried one by one
_FIRST = 256  # of more, or of sizes without an upper bound
_SEVERAL = 2048  # combinations of several sizes
_TRIED = 16  # of all, for operators are many that choose between ways to the same
_SPANS = 16  # in which a condition is written down
_ADVICE = ": give such sizes, or compile it once more with example inputs of the others"


@dataclass(frozen=True)
class _Space:
    """The sizes that a model declares: the least and the largest (None: no bound) of each of torch's symbols, what divides them, and
    those of the example inputs."""

    bounds: dict[Any, tuple[int, int | None]]
    multiples: dict[Any, int]
    example: dict[Any, int]

    def implies(self, relation: Any) -> bool:
        ranges = {s: ValueRanges(low, int_oo if high is None else high) for s, (low, high) in self.bounds.items()}
        try:
            return bool(bound_sympy(relation, ranges).lower == sympy.true)
        except Exception:  # an operator that torch cannot bound
            return False

    def within(self, symbol: Any, low: int, high: int | None) -> _Space:
        return replace(self, bounds=self.bounds | {symbol: (low, high)})

    def sizes(self, symbol: Any) -> list[int]:
        """All of one symbol, or the first of many."""
        low, high = self.bounds[symbol]
        last = low + _FIRST if high is None or high - low >= _ALL else high
        return [size for size in range(low, last + 1) if size % self.multiples[symbol] == 0]

    def complete(self, symbol: Any) -> bool:
        low, high = self.bounds[symbol]
        return high is not None and high - low < _ALL

    def tells_all(self, relation: Any) -> bool:
        """Whether `others` goes through all sizes that the relation depends on."""
        return len(relation.free_symbols) == 1 and all(map(self.complete, relation.free_symbols))

    def others(self, relation: Any) -> Iterator[dict[Any, int]]:
        """Sizes for which the relation does not hold, small ones first; symbols that it does not have are as in the example."""
        symbols = sorted(relation.free_symbols, key=str)
        lists = [self.sizes(symbol) for symbol in symbols]
        if len(symbols) > 1:
            few = max(2, int(_SEVERAL ** (1 / len(symbols))))
            lists = [sorted({*sizes[: few - 1], self.example[s]}) for s, sizes in zip(symbols, lists)]
        for sizes in sorted(itertools.product(*lists), key=sum):
            if not _true(relation, dict(zip(symbols, sizes))):
                yield self.example | dict(zip(symbols, sizes))


def conditioned(
    model: ImportedModel,
    symbols: Symbols,
    decisions: Sequence[Decision],
    example: Binding,
    agrees: Verdict | None = None,
) -> tuple[ImportedModel, dict[str, str]]:
    """The model that refuses sizes for which a decision was another, and what narrowed the bounds of which symbol. `example` has the
    sizes that were traced, by torch's symbols. Without `agrees` every authored decision counts."""
    space = _space(model, symbols, example)
    for decision in decisions:
        if decision.authored and any(symbol_is_type(s, SymT.FLOAT) for s in decision.holds.free_symbols):
            raise ImportModelError(
                f"{_describe(decision, symbols)}, and a number that a run is given is in it: fix that number"
            )
    judged = [d for d in decisions if d.holds.free_symbols <= space.bounds.keys() and not space.implies(d.holds)]
    specs = dict(model.symbols)
    why: dict[str, str] = {}
    left: list[Decision] = []
    for decision in _counting(judged, space, agrees):
        if space.tells_all(decision.holds) and not any(space.others(decision.holds)):
            continue  # those before say it already
        symbol = next(iter(decision.holds.free_symbols))
        name = symbols.variable(symbol) if len(decision.holds.free_symbols) == 1 else ""
        narrow = _narrower(decision.holds, symbol, space, specs[name]) if name in specs else None
        if narrow is None:
            left.append(decision)
            continue
        specs[name] = narrow
        space = space.within(symbol, narrow.min, narrow.max)
        space.multiples[symbol] = narrow.multiple
        why[name] = f"{why[name]}; {_describe(decision, symbols)}" if name in why else _describe(decision, symbols)
    conditions = [
        Condition(_checked(d.holds, symbols, space, _describe(d, symbols)), _describe(d, symbols) + _ADVICE)
        for d in left
        if not space.implies(d.holds)
    ]
    return replace(model, symbols=specs, conditions=[*model.conditions, *conditions]), why


def with_extents(
    model: ImportedModel, symbols: Symbols, extents: Sequence[Decision], example: Binding
) -> tuple[ImportedModel, dict[str, str]]:
    """The model whose bounds keep each extent of one symbol from being negative (torch leaves that open: `x[:, 2:]` of one column), and
    what narrowed the bounds of which symbol."""
    space, specs = _space(model, symbols, example), dict(model.symbols)
    why: dict[str, str] = {}
    for each in extents:
        if not each.holds.free_symbols <= space.bounds.keys() or space.implies(each.holds):
            continue
        (symbol,) = each.holds.free_symbols
        name = symbols.variable(symbol)
        narrow = _narrower(each.holds, symbol, space, specs[name]) if name in specs else None
        if narrow is not None and narrow != specs[name]:
            specs[name], why[name] = narrow, _describe(each, symbols)
            space = space.within(symbol, narrow.min, narrow.max)
    return replace(model, symbols=specs), why


def _space(model: ImportedModel, symbols: Symbols, example: Binding) -> _Space:
    found = _Space({}, {}, {})
    for symbol, size in example.items():
        if symbols.defines(symbol):
            spec = model.symbols.get(symbols.variable(symbol))
            found.bounds[symbol] = symbols.bounds(symbol) if spec is None else (spec.min, spec.max)
            found.multiples[symbol] = 1 if spec is None else spec.multiple
            found.example[symbol] = size
    return found


def _counting(decisions: Sequence[Decision], space: _Space, agrees: Verdict | None) -> list[Decision]:
    """Those whose other side, at some of its sizes, is another model."""
    found: list[Decision] = []
    verdicts: list[tuple[Binding, bool | None]] = []

    def judged(binding: Binding) -> bool | None:
        for other, verdict in verdicts:
            if other == binding:
                return verdict
        verdict = None if agrees is None or len(verdicts) >= _TRIED else agrees(binding)
        verdicts.append((binding, verdict))
        return verdict

    authored = [d for d in decisions if d.authored]
    for decision in authored:
        others = list(itertools.islice(space.others(decision.holds), _SEVERAL))
        if not others and space.tells_all(decision.holds):
            continue
        rest = [d.holds for d in authored if d.holds != decision.holds]
        if not others or not all(judged(binding) for binding in _sample_sizes(others, rest, space)):
            found.append(decision)
    for decision in decisions if agrees is not None else ():
        if decision.authored or any(verdict and not _true(decision.holds, sizes) for sizes, verdict in verdicts):
            continue
        first = itertools.islice(space.others(decision.holds), _FIRST)
        alone = [b for b in first if min(b.values()) > 1 and all(_true(d.holds, b) for d in found)]
        if any(judged(binding) is False for binding in _sample_sizes(alone, [], space)):
            found.append(decision)
    return found


def _sample_sizes(others: Sequence[dict[Any, int]], rest: Sequence[Any], space: _Space) -> list[dict[Any, int]]:
    """A few sizes of a decision's other side, as far as can be on the traced side of the rest: the smallest, the one nearest to the
    example, and one that is larger than that."""
    total = sum(space.example.values())
    near = sorted(others, key=lambda b: abs(sum(b.values()) - total))
    large = [b for b in others if sum(b.values()) > total]
    found: list[dict[Any, int]] = []
    for some in (others[:_TRIED], near[:_TRIED], large[:_TRIED]):
        best = min(some, key=lambda b: sum(not _true(each, b) for each in rest), default=None)
        if best is not None and best not in found:
            found.append(best)
    return found


def _narrower(holds: Any, symbol: Any, space: _Space, spec: SymbolSpec) -> SymbolSpec | None:
    """The bounds or the divisor that a relation of one symbol comes to; None if it is neither."""
    sizes = space.sizes(symbol)
    good = [size for size in sizes if _true(holds, {symbol: size})]
    complete = space.complete(symbol)
    if not good:
        return None
    if good == [size for size in sizes if good[0] <= size <= good[-1]]:
        low, high = (spec.min if good[0] == sizes[0] else good[0]), good[-1]
        if complete:
            return replace(spec, min=low, max=spec.max if high == sizes[-1] else high)
        if high == sizes[-1] and space.within(symbol, low, None).implies(holds):
            return replace(spec, min=low)
        if high < sizes[-1] and space.within(symbol, high + 1, None).implies(sympy.Not(holds)):
            return replace(spec, min=low, max=high)
        return None
    divisor = math.gcd(*good)
    if good == [size for size in sizes if size % divisor == 0] and (complete or _is_multiple(holds, divisor)):
        fitted = replace(spec, min=good[0], multiple=math.lcm(spec.multiple, divisor))
        return replace(fitted, max=good[-1]) if complete else fitted
    return None


def _is_multiple(holds: Any, divisor: int) -> bool:
    """Whether the relation has a period that so many sizes show."""
    return (
        isinstance(holds, sympy.Eq)
        and type(holds.args[0]).__name__ in ("Mod", "PythonMod")
        and isinstance(holds.args[0].args[1], sympy.Integer)
        and divisor <= holds.args[0].args[1] < _FIRST
    )


def _checked(holds: Any, symbols: Symbols, space: _Space, description: str) -> Any:
    """The relation as a TIR truth; ImportModelError where a run cannot check it."""
    try:
        truth = symbols.truth(holds)
    except NotConvertible:
        truth = _as_spans(holds, symbols, space)
    if truth is None:
        raise ImportModelError(
            f"{description}, which a run cannot check: give bounds to the dimensions that it depends on (dynamic, --dynamic), or fix them"
        )
    if not symbols.from_inputs(truth):
        raise ImportModelError(
            f"{description}, and numbers in it are none of the inputs' sizes, so that a run cannot check it before it begins: fix them"
        )
    return truth


def _as_spans(holds: Any, symbols: Symbols, space: _Space) -> Any:
    """A relation of one symbol, all of whose sizes are known, as the spans in which it holds."""
    (symbol, *more) = holds.free_symbols
    if more or not space.complete(symbol):
        return None
    spans: list[list[int]] = []
    for size in space.sizes(symbol):
        if _true(holds, {symbol: size}):
            if spans and spans[-1][1] == size - 1:
                spans[-1][1] = size
            else:
                spans.append([size, size])
    within = [sympy.And(symbol >= low, symbol <= high) for low, high in spans]
    return symbols.truth(sympy.Or(*within)) if 0 < len(within) <= _SPANS else None


def _describe(decision: Decision, symbols: Symbols) -> str:
    where = f" at {decision.place}" if decision.place else ""
    if decision.of_extent:
        return f"a tensor{where} has an extent of {text_of(decision.holds.args[0], symbols)}"
    return f"the model decides by sizes{where}, and was traced where {text_of(decision.holds, symbols)}"


def text_of(holds: Any, symbols: Symbols) -> str:
    """A relation of torch's symbols, in the names of the model's."""
    named = {s: sympy.Symbol(symbols.variable(s) or str(s), integer=True) for s in holds.free_symbols}
    try:
        return str(PythonPrinter().doprint(holds.xreplace(named)))
    except Exception:  # a function that torch does not print
        return str(holds)


def _true(relation: Any, sizes: Mapping[Any, int]) -> bool:
    """Whether the relation holds; sizes for which it has no value count as other ones."""
    try:
        return bool(value_at(relation, sizes))
    except Exception:  # a quotient by 0
        return False
