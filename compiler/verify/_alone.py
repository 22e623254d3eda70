"""Where errors add up: the operator whose own error, on what the source gives it, is the largest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from ..importers._imported import Array, IsolatedOperators

__all__ = ["OwnError", "largest_own_error"]

_MAX_BYTES = 1 << 30  # bytes that the operators read and give


@dataclass(frozen=True)
class OwnError:
    """An operator, its own error, in a result of this element type, and the sum of all operators' own."""

    operator: str
    error: float
    dtype: str
    total: float


def largest_own_error(
    isolated: IsolatedOperators | None,
    run: Callable[[IsolatedOperators], Mapping[str, Array]],
    error: Callable[[str, Array, Array], float],
    among: Collection[str] = (),
) -> OwnError | None:
    """`run` gives the results of a compiled `isolated.model`, `error` how far one of them is off; of float results alone, and of operators that
    `among` names, if it names any. None where there is nothing to compare, or more than fits in memory."""
    if isolated is None or sum(a.nbytes for a in (*isolated.inputs.values(), *isolated.expected.values())) > _MAX_BYTES:
        return None
    actual = run(isolated)
    errors: dict[str, tuple[float, str]] = {}
    for name, reference in isolated.expected.items():
        if np.issubdtype(reference.dtype, np.floating) or reference.dtype.kind == "V":  # V: bfloat16
            operator = isolated.operators[name]
            if among and operator not in among:
                continue
            errors[operator] = max(
                errors.get(operator, (0.0, "")), (error(name, actual[name], reference), str(reference.dtype))
            )
    if not errors:
        return None
    largest = max(errors, key=lambda each: errors[each])
    return OwnError(largest, *errors[largest], sum(each for each, _ in errors.values()))
