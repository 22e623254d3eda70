"""What a caller says about dimensions that vary, in one form for all importers: {input: {axis: wish}}.

A wish is (min, max) where None leaves a side open, or what an importer knows beyond that: a symbol's name, a torch.export.Dim, a
SymbolSpec, nested structures of these for an input that is a list or a dict of tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maas_rt._errors import InvalidArgumentError

from ._imported import ImportedModel, SymbolSpec

__all__ = ["AskedBounds", "asked_bounds", "contradiction", "requested", "span", "with_asked_bounds"]

_TEXT = re.compile(r"^(?P<input>[^=]+):(?P<axis>-?\d+)(?:=(?P<low>\d+)?\.\.(?P<high>\d+)?)?$", re.DOTALL)


def requested(dynamic: Any) -> dict[str, Any]:
    """`dynamic` as compile takes it, {"x": {0: (1, 32)}}, "x:0=1..32" or a list of such texts, as one mapping by input."""
    if dynamic is None:
        return {}
    if isinstance(dynamic, Mapping):
        return _checked({str(name): spec for name, spec in dynamic.items()})
    texts = [dynamic] if isinstance(dynamic, str) else dynamic
    if not isinstance(texts, Sequence):
        raise InvalidArgumentError(
            f"dynamic is a {type(dynamic).__name__}, expected a mapping such as {{'x': {{0: (1, 32)}}}}, or texts such as 'x:0=1..32'"
        )
    found: dict[str, Any] = {}
    for text in texts:
        match = _TEXT.match(str(text))
        if match is None:
            raise InvalidArgumentError(
                f"{text!r} does not name a dynamic dimension: expected input:dim=min..max, as x:0=1..32 (either bound may be left out, or "
                "both: x:0), once for each dimension"
            )
        bounds = tuple(int(match[side]) if match[side] else None for side in ("low", "high"))
        axes = found.setdefault(match["input"], {})
        if axes.setdefault(int(match["axis"]), bounds) != bounds:
            raise InvalidArgumentError(
                f"dimension {match['axis']} of {match['input']!r} is asked for twice, with different bounds: give one of them"
            )
    return _checked(found)


def _checked(dynamic: dict[str, Any]) -> dict[str, Any]:
    for each in asked_bounds(dynamic):
        if (each.low or 0) < 0 or (each.high is not None and each.high < (each.low or 0)):
            raise InvalidArgumentError(f"dimension {each.axis} of {each.input!r} is to be in {each}, which is empty")
    return dynamic


@dataclass(frozen=True)
class AskedBounds:
    """Bounds that the caller gave to one dimension of an input; None where a side was left open."""

    input: str
    axis: int
    low: int | None
    high: int | None

    def __str__(self) -> str:
        return span(self.low or 0, self.high)

    def spec(self) -> SymbolSpec:
        return SymbolSpec(self.low or 0, self.high)

    def agrees(self, other: AskedBounds) -> bool:
        """Whether one dimension can keep both: no side has two different numbers."""
        pairs = ((self.low, other.low), (self.high, other.high))
        return all(a is None or b is None or a == b for a, b in pairs)


def asked_bounds(dynamic: Mapping[str, Any]) -> list[AskedBounds]:
    """The bounds in numbers that `requested` holds, of inputs that are plain tensors."""
    found = []
    for name, axes in dynamic.items():
        for axis, wish in axes.items() if isinstance(axes, Mapping) else ():
            if not isinstance(axis, int):
                continue
            low, high = (
                (wish[0], wish[1])
                if isinstance(wish, (tuple, list)) and len(wish) == 2
                else (getattr(wish, "min", None), getattr(wish, "max", None))
            )
            if not isinstance(low, int | None) or not isinstance(high, int | None) or low is high is None:
                continue
            found.append(AskedBounds(name, axis, low, high))
    return found


def contradiction(name: str, axis: int, extent: int, why: str) -> InvalidArgumentError:
    """Two options say different things of one dimension: `extent`, and `why`."""
    return InvalidArgumentError(
        f"input_shapes (--input-shape) gives {extent} for dimension {axis} of input '{name}', and dynamic (--dynamic) {why}: "
        "leave one of the two out"
    )


def span(low: int, high: int | None) -> str:
    """Bounds as they are written on the command line."""
    return f"{low}..{'' if high is None else high}"


def with_asked_bounds(
    model: ImportedModel,
    bounds: Sequence[AskedBounds],
    cause: Callable[[AskedBounds, str], str] = lambda bounds, symbol: "",
    *,
    empty: bool = False,
) -> ImportedModel:
    """The model, with the bounds of its symbols no wider than what was asked for.

    Raises InvalidArgumentError, before anything is compiled, where they are narrower; `cause` may say what made the bounds of a
    symbol so. `empty`: a minimum of 1 is the framework's assumption, and where 0 was asked for, verification tries it.
    """
    symbols = dict(model.symbols)
    shapes = {name: list(param.ty.shape.values) for name, param in zip(model.input_names, model.mod["main"].params)}
    found = []
    for each in bounds:
        shape = shapes.get(each.input, [])
        if -len(shape) <= each.axis < len(shape):  # else it is no tensor of the program: the importer has judged it
            extent = shape[each.axis]
            fixed, name = getattr(extent, "value", None), str(getattr(extent, "name", ""))
            if fixed is not None:
                found.append((each, "", SymbolSpec(int(fixed), int(fixed))))
            elif name in symbols:  # no expression such as 2 * n, whose bounds are those of n
                found.append((each, name, symbols[name]))
    first: dict[str, AskedBounds] = {}
    for each, name, spec in found:
        other = first.setdefault(name, each) if name else each
        if not other.agrees(each):
            raise _narrowed(
                other, each.spec(), f"it has to equal dimension {each.axis} of input '{each.input}', asked to be {each}"
            )
        low, high = spec.min if each.low is None else each.low, spec.max if each.high is None else each.high
        smallest = -(-low // spec.multiple) * spec.multiple  # what is no multiple is refused by the run
        if smallest < (0 if empty and spec.min == 1 else spec.min) or (
            spec.max is not None and (high is None or high // spec.multiple * spec.multiple > spec.max)
        ):
            raise _narrowed(each, spec, cause(each, name))
        if name:
            known = symbols[name]
            symbols[name] = replace(
                known, min=low if each.low is not None else known.min, max=_lowest_max(high, known.max)
            )
    return replace(model, symbols=symbols, asked_minimums={n: e.low for e, n, _ in found if n and e.low is not None})


def _lowest_max(*tops: int | None) -> int | None:
    return min((top for top in tops if top is not None), default=None)


def _narrowed(asked: AskedBounds, able: SymbolSpec, cause: str) -> InvalidArgumentError:
    """The refusal of bounds that only partly hold; it says which do."""
    low, high = max(able.min, asked.low or 0), _lowest_max(able.max, asked.high)
    advice = (
        f"ask for {asked.input}:{asked.axis}={span(low, high)}"
        if high is None or low < high
        else "leave the bounds of this dimension out"
    )
    holds = str(able.min) if able.min == able.max else span(able.min, able.max)
    return InvalidArgumentError(
        f"dimension {asked.axis} of input '{asked.input}' was asked to be {asked}, and the model holds for {holds} alone"
        f"{f': {cause}' if cause else ''}; {advice}, or change the model"
    )
