"""Where errors add up: the operator whose own error, on what the source gives it, is the largest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from ..importers._imported import Apart, Array

__all__ = ["Own", "largest_alone"]

_MOST = 1 << 30  # bytes that the operators read and give


@dataclass(frozen=True)
class Own:
    """An operator, its own error, in a result of this element type, and the sum of all operators' own."""

    operator: str
    error: float
    dtype: str
    total: float


def largest_alone(
    apart: Apart | None,
    run: Callable[[Apart], Mapping[str, Array]],
    error: Callable[[str, Array, Array], float],
    among: Collection[str] = (),
) -> Own | None:
    """`run` gives the results of a compiled `apart.model`, `error` how far one of them is off; of float results alone, and of operators that
    `among` names, if it names any. None where there is nothing to compare, or more than fits in memory."""
    if apart is None or sum(a.nbytes for a in (*apart.inputs.values(), *apart.wanted.values())) > _MOST:
        return None
    got = run(apart)
    own: dict[str, tuple[float, str]] = {}
    for name, reference in apart.wanted.items():
        if np.issubdtype(reference.dtype, np.floating) or reference.dtype.kind == "V":  # V: bfloat16
            operator = apart.operators[name]
            if among and operator not in among:
                continue
            own[operator] = max(own.get(operator, (0.0, "")), (error(name, got[name], reference), str(reference.dtype)))
    if not own:
        return None
    largest = max(own, key=lambda each: own[each])
    return Own(largest, *own[largest], sum(each for each, _ in own.values()))
