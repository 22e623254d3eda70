"""How much each layer's method costs in accuracy: the error of the outputs where it alone has it, measured.

Groups of layers are measured first, and taken apart where their error matters: most of a model's error comes from few of its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ._assign import Assignment

__all__ = ["layer_errors"]

_MATTERS = 0.03  # of the whole model's error: a group with less is not taken apart
_GROUPS = 8


def layer_errors(
    layers: Sequence[str], method: str, whole: float, error_of: Callable[[Assignment], float | None]
) -> dict[str, float]:
    """The error by layer, where `error_of` an assignment tells that of the outputs (None: there is no such model, or no time left).

    `whole` is the error where all of `layers` have `method`; it is spread evenly over what was not measured.
    """
    found: dict[str, float] = {}

    def measure(group: Sequence[str], expected: float) -> None:
        error = expected if expected <= _MATTERS * whole and len(group) > 1 else error_of(dict.fromkeys(group, method))
        error = expected if error is None else error
        if len(group) == 1 or error <= _MATTERS * whole:
            found.update(dict.fromkeys(group, error / len(group)))
            return
        middle = len(group) // 2
        for part in (group[:middle], group[middle:]):
            measure(part, error * len(part) / len(group))

    size = max(1, -(-len(layers) // _GROUPS))
    for first in range(0, len(layers), size):
        group = layers[first : first + size]
        measure(group, whole)
    return found
