"""Constants of which in each group of m neighbours along an axis no more than n are not zero (N:M, as 2:4; A. Mishra et al., 2021,
"Accelerating Sparse Deep Neural Networks"): what is left of them, and where in its group each stood.

In the IR they are dense constants with their zeros, so that passes fold, move and quantize them as any others; a plan stores them so
(`plan/_weights.py`) where that is smaller than what kernels read, which a runtime packs when it loads the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ._operator import Array

__all__ = ["MOST_NEIGHBOURS", "SparseNM"]

MOST_NEIGHBOURS = 16  # of a group
_SAMPLE = 64  # rows that tell what a pattern is not


@dataclass(frozen=True, eq=False)
class SparseNM:
    """`values` and `indices` (uint8, rising, below m) have the dense extents with `axis` in groups of `m`, and n behind them all."""

    values: Array
    indices: Array
    axis: int
    m: int

    @property
    def n(self) -> int:
        return int(self.values.shape[-1])

    @property
    def bits(self) -> int:
        """Of an index, as it is stored."""
        return _bits(self.m)

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + -(-self.indices.size * self.bits // 8)

    @classmethod
    def of(cls, dense: Array, most: float) -> SparseNM | None:
        """By the axis, n and m that take the fewest bytes; None where these are more than the share `most` of the dense ones."""
        if not 0 < np.count_nonzero(dense) < most * dense.size or dense.dtype.itemsize not in (1, 2, 4):
            return None
        kept = np.asarray(dense != 0)
        best, found = most * 8 * dense.dtype.itemsize, None  # bits for each number of the dense tensor
        for axis, m in _groupings(dense.shape):
            each = 8 * dense.dtype.itemsize + _bits(m)
            if each * _most_kept(_some(kept, axis), axis, m) / m <= best:
                n = _most_kept(kept, axis, m)
                if each * n / m < best:
                    best, found = each * n / m, (axis, n, m)
        return None if found is None else cls._taken(dense, *found)

    @classmethod
    def _taken(cls, dense: Array, axis: int, n: int, m: int) -> SparseNM:
        shape = dense.shape
        grouped = np.moveaxis(dense.reshape(*shape[:axis], shape[axis] // m, m, *shape[axis + 1 :]), axis + 1, -1)
        kept = np.asarray(grouped != 0)
        lacking = n - kept.sum(-1, dtype=np.int8, keepdims=True)  # zeros that are stored, too: the first ones
        kept |= ~kept & (np.cumsum(~kept, -1, dtype=np.int8) <= lacking)
        stored = (*grouped.shape[:-1], n)
        indices = (np.flatnonzero(kept) % m).astype(np.uint8)
        return cls(grouped[kept].reshape(stored), indices.reshape(stored), axis, m)

    def dense(self) -> Array:
        groups = np.zeros((*self.values.shape[:-1], self.m), self.values.dtype)
        np.put_along_axis(groups, self.indices.astype(np.intp), self.values, -1)
        shape = [extent * (self.m if a == self.axis else 1) for a, extent in enumerate(self.values.shape[:-1])]
        return np.moveaxis(groups, -1, self.axis + 1).reshape(shape)

    def packed_indices(self) -> bytes:
        """`bits` each, the first in the lowest bits of a byte."""
        each = 8 // self.bits
        flat = np.pad(self.indices.reshape(-1), (0, -self.indices.size % each)).reshape(-1, each)
        shifts = np.arange(each, dtype=np.uint8) * np.uint8(self.bits)
        return bytes(np.bitwise_or.reduce(flat << shifts, axis=1).astype(np.uint8).tobytes())


def _bits(m: int) -> int:
    return 2 if m <= 4 else 4


def _groupings(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Axes and numbers of neighbours along them: the smallest first."""
    for m in range(2, MOST_NEIGHBOURS + 1):
        yield from ((axis, m) for axis, extent in enumerate(shape) if extent % m == 0)


def _most_kept(kept: Array, axis: int, m: int) -> int:
    shape = kept.shape
    groups = kept.reshape(*shape[:axis], shape[axis] // m, m, *shape[axis + 1 :])
    return int(groups.sum(axis + 1, dtype=np.uint8).max())


def _some(kept: Array, axis: int) -> Array:
    """Of the longest other axis the first rows."""
    others = [a for a in range(kept.ndim) if a != axis]
    if not others:
        return kept
    longest = max(others, key=lambda a: kept.shape[a])
    return kept[tuple(slice(_SAMPLE) if a == longest else slice(None) for a in range(kept.ndim))]
