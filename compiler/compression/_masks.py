"""Which weights of a layer go: the least of some score, in a pattern that kernels gain by.

Scores and weights are matrices [outputs, depth] whose neighbouring columns are neighbouring input channels, as kernels read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Pattern", "least"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Pattern:
    """What goes together: blocks of `rows` outputs by `columns` inputs; or (`kept`, `of`): of each `of` neighbouring inputs of an output
    `kept` stay."""

    rows: int = 1
    columns: int = 1
    kept: int = 0
    of: int = 0

    def __str__(self) -> str:
        if self.of:
            return f"{self.kept}:{self.of}"
        return "unstructured" if self.rows * self.columns == 1 else f"{self.rows}x{self.columns}"


def least(scores: Array, pattern: Pattern, sparsity: float, by_row: bool = False) -> Array:
    """bool [outputs, depth]: the blocks of least mean score, as many as come nearest to `sparsity` (with `by_row` in each row of blocks);
    of equals the first. With N:M, of each M the N of the largest scores stay."""
    if pattern.of:
        groups = scores.reshape(len(scores), -1, pattern.of)
        gone = _first(groups, pattern.of - pattern.kept)
        return gone.reshape(scores.shape)
    blocks = _block_means(scores, pattern)
    if by_row:
        gone = _first(blocks, round(sparsity * blocks.shape[1]))
    else:
        gone = _first(blocks.reshape(-1), round(sparsity * blocks.size)).reshape(blocks.shape)
    wide = np.repeat(np.repeat(gone, pattern.rows, 0), pattern.columns, 1)
    return wide[: scores.shape[0], : scores.shape[1]]


def _first(scores: Array, count: int) -> Array:
    """The `count` least along the last axis. A stable sort: the same ones on every machine."""
    gone = np.zeros(scores.shape, bool)
    np.put_along_axis(gone, np.argsort(scores, -1, kind="stable")[..., :count], True, -1)
    return gone


def _block_means(scores: Array, pattern: Pattern) -> Array:
    """The last blocks of either direction may be smaller."""
    if pattern.rows * pattern.columns == 1:
        return scores
    rows, columns = (np.arange(0, n, by) for n, by in zip(scores.shape, (pattern.rows, pattern.columns)))
    sums = np.add.reduceat(np.add.reduceat(scores, rows, 0), columns, 1)
    sizes = np.diff([*rows, scores.shape[0]])[:, None] * np.diff([*columns, scores.shape[1]])
    return np.asarray(sums / sizes)
