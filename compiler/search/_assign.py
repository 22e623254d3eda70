"""Which layer has what: the cheapest assignment whose expected error stays below a bound, as an integer program.

Errors of layers add up as powers, as those of independent noise do; so do their times and sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

__all__ = ["Assignment", "assign"]

Assignment = dict[str, str]  # the name of a method by layer
Table = Mapping[str, Mapping[str, float]]  # by layer and method


def assign(
    layers: Sequence[str], costs: Table, errors: Table, most_error: float, sizes: Table, most_size: float | None = None
) -> Assignment | None:
    """The least sum of `costs` with `errors` at most `most_error` and `sizes` at most `most_size`; None where there is none.

    Layers may have the methods that all three tables have for them.
    """
    pairs = [(layer, method) for layer in layers for method in costs[layer] if method in errors[layer]]
    if not pairs:
        return {}
    cost = np.array([costs[layer][method] for layer, method in pairs])
    # Errors are told apart down to a millionth of the bound.
    error = np.array([errors[layer][method] for layer, method in pairs]) / max(most_error, 1e-30)
    one_each = np.array([[float(layer == each) for each, _ in pairs] for layer in layers])
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(error[None], -np.inf, 1)]
    if most_size is not None:
        size = np.array([sizes[layer][method] for layer, method in pairs]) / most_size
        constraints.append(LinearConstraint(size[None], -np.inf, 1))
    scale = max(float(np.abs(cost).max()), 1e-30)
    found = milp(cost / scale, integrality=np.ones(len(pairs)), bounds=Bounds(0, 1), constraints=constraints)
    if found.x is None:
        return None
    return {layer: method for (layer, method), taken in zip(pairs, found.x) if taken > 0.5}
