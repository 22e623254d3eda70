"""What a compressed model may lose and may take: the bounds of a search for its recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from maas_rt._errors import InvalidArgumentError

__all__ = ["Budget"]

_CHOICES = {
    "objective": ("latency", "size", "cost"),
    "precision": ("any", "float", "int8", "int4"),
    "sparsity": ("any", "none", "unstructured", "block", "structured"),
}


@dataclass(frozen=True)
class Budget:
    """`max_drop` is how much of the float model's score may be lost, absolute, or with `relative` as a share of it. `max_latency` is in
    seconds of one run, `max_size` in bytes of the file. Of what keeps all three the search looks for the least `objective`: "latency",
    "size", or "cost", the CPU time of a run. It begins nothing new after `seconds`. `precision` and `sparsity` say what layers may
    have: "int8" is floats and 8 bits, "int4" 4 bits too, as "any".
    """

    max_drop: float = 0.01
    relative: bool = False
    max_latency: float | None = None
    max_size: int | None = None
    objective: str = "latency"
    seconds: float = 3600.0
    precision: str = "any"
    sparsity: str = "any"
    version: int = 1

    def __post_init__(self) -> None:
        if not (_is_number(self.max_drop) and self.max_drop >= 0):
            raise InvalidArgumentError(f"Budget: max_drop is {self.max_drop!r}, expected a number from 0 on")
        for name in ("max_latency", "max_size", "seconds"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                raise InvalidArgumentError(f"Budget: {name} is {value!r}, expected a number above 0")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidArgumentError(
                    f"Budget: {name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}"
                )

    @classmethod
    def of(cls, given: Budget | Mapping[str, Any]) -> Budget:
        """A mapping with these fields as keys, too."""
        if isinstance(given, Budget):
            return given
        if not isinstance(given, Mapping):
            raise InvalidArgumentError(f"the budget is a {type(given).__name__}, expected a Budget or a mapping")
        known = [field.name for field in fields(cls)]
        surplus = sorted(set(map(str, given)) - set(known))
        if surplus:
            raise InvalidArgumentError(f"the budget has no {', '.join(surplus)}, expected of {', '.join(known)}")
        return cls(**given)

    def least_score(self, score: float) -> float:
        """What is left of the float model's score where all of the drop is taken."""
        return score - self.max_drop * (abs(score) if self.relative else 1.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
