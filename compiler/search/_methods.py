"""What layers may have in a search: a name for each method, what it stands for in a recipe, and about how many bytes a weight takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._budget import Budget
from .._recipes import Half, Int8, Int8Dynamic, Prune, Quantize, Recipe, WeightOnly
from ._assign import Assignment

__all__ = ["FLOAT", "Method", "methods_of", "recipe_of"]

FLOAT = "float"
_ADMITTED = 1.0  # of the worst element's error: what a search admits is the budget's to say
_SPARSITIES = (0.5, 0.8)
_CHANNELS = (0.25, 0.5)  # shares of them that go


@dataclass(frozen=True)
class Method:
    """None leaves a layer in float, or dense.

    `together`: all layers have the method's `prune`, or none does, since channels go from what makes them and from what reads them alike.
    `unless`: a method that costs no more, and makes this one needless where it keeps the budget. `behind`: one that asks for less, so
    that this one is hopeless where that breaks the budget; layers that cannot have this one have that.
    """

    name: str
    quantize: Quantize | None
    prune: Prune | None
    bytes_per_weight: float
    together: bool = False
    unless: str = ""
    behind: str = ""


def methods_of(budget: Budget) -> dict[str, Method]:
    """All that the budget admits, by name, float first."""
    return {method.name: method for method in _methods(budget)}


def _methods(budget: Budget) -> Iterator[Method]:
    yield Method(FLOAT, None, None, 4.0)
    yield Method("float16", Half(tolerance=_ADMITTED), None, 2.0)
    eight = Int8(tolerance=_ADMITTED) if budget.precision in ("any", "int8", "int4") else None
    if eight is not None:
        yield Method("int8", eight, None, 1.0)
        yield Method("int8 dynamic", Int8Dynamic(tolerance=_ADMITTED), None, 1.0, unless="int8")
    if budget.precision in ("any", "int4"):
        few = WeightOnly(method="gptq", tolerance=_ADMITTED)
        yield Method("int4", few, None, 0.5 + 2 / 32)
        if budget.objective != "size" or budget.max_latency is not None:  # no smaller, but quicker
            yield Method("int4 x int8", replace(few, activations="int8"), None, 0.5 + 2 / 32, behind="int4")
    patterns = [p for p in ("unstructured", "block") if budget.sparsity in ("any", p)]
    for pattern in patterns:
        for sparsity in _SPARSITIES:
            prune = Prune(sparsity, pattern, tolerance=_ADMITTED)
            index = 2.0 if pattern == "unstructured" else 0.5  # bytes beside each number
            yield Method(f"{pattern} {sparsity:g}", None, prune, (1 - sparsity) * (4 + index))
            if eight is not None and pattern == "block":
                yield Method(f"int8 {pattern} {sparsity:g}", eight, prune, (1 - sparsity) * 1.25)
    less = ""
    for share in _CHANNELS if budget.sparsity in ("any", "structured") else ():
        prune, name, left = Prune(share, "structured", tolerance=_ADMITTED), f"structured {share:g}", (1 - share) ** 2
        yield Method(name, None, prune, left * 4, together=True, behind=less)
        if eight is not None:
            yield Method(f"int8 {name}", eight, prune, left, together=True, behind=name)
        less = name


def recipe_of(assignment: Assignment, methods: Mapping[str, Method], data: Any) -> Recipe:
    """The recipe that gives each layer what it is assigned, and leaves the others in float and dense."""
    chosen = {_literal(layer): methods[name] for layer, name in assignment.items()}
    return Recipe(
        layers={layer: method.quantize for layer, method in chosen.items() if method.quantize is not None},
        prune_layers={layer: method.prune for layer, method in chosen.items() if method.prune is not None},
        calibration=data,
    )


def _literal(name: str) -> str:
    """The pattern that fits this name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
