"""SparseGPT: weights go one column after the other, and those to the right of it make up for what is lost.

E. Frantar and D. Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot" (2023), algorithm 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ._masks import Pattern, least
from ._moments import inverse_factor

__all__ = ["sparsegpt"]

Array = npt.NDArray[Any]

_COLUMNS = 128  # for which a mask is chosen at once, from what the columns before have left (the paper's B_s)


def sparsegpt(weight: Array, moments: Array, pattern: Pattern, sparsity: float) -> tuple[Array, float]:
    """The pruned weight, and the damping that the inverse took.

    weight [outputs, depth]; moments [depth, depth], X X^T of its inputs, which is half of the Hessian of its squared error.
    """
    weight = weight.astype(np.float64)
    dead = np.diagonal(moments) == 0  # no sample has anything there
    weight[:, dead] = 0
    damped = moments.astype(np.float64)
    damped[dead, dead] = 1
    inverse, damping = inverse_factor(damped)
    depth = weight.shape[1]
    for begin in range(0, depth, _COLUMNS):
        end = min(begin + _COLUMNS, depth)
        errors = _prune_columns(weight[:, begin:end], inverse[begin:end, begin:end], pattern, sparsity)
        weight[:, end:] -= errors @ inverse[begin:end, end:]
    return weight, damping


def _prune_columns(weight: Array, inverse: Array, pattern: Pattern, sparsity: float) -> Array:
    """One block of columns, in place; what each column's loss asks of the columns behind it."""
    diagonal = np.diagonal(inverse)
    errors = np.zeros_like(weight)
    gone = np.zeros(weight.shape, bool) if pattern.of else least((weight / diagonal) ** 2, pattern, sparsity)
    for i in range(weight.shape[1]):
        if pattern.of and i % pattern.of == 0:
            some = slice(i, i + pattern.of)
            gone[:, some] = least((weight[:, some] / diagonal[some]) ** 2, pattern, sparsity)
        errors[:, i] = np.where(gone[:, i], weight[:, i] / diagonal[i], 0)
        weight[:, i:] -= errors[:, i, None] * inverse[i, i:]
        weight[gone[:, i], i] = 0  # exactly
    return errors
