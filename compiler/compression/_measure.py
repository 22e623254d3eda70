"""The error of a quantized layer's results, on the rows that are kept of what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ._grid import Grid, quantized_weights, weight_scales
from ._rows import Matrix

__all__ = ["Layer8", "decibels", "single_threaded"]

Array = npt.NDArray[np.float32]


@dataclass
class Layer8:
    """A layer, the rows that it reads [n, C, taps], and its results in float. `rounded`: its weights on 8 bits, as integers in the form of the
    matrix's, where they are not those next to it."""

    matrix: Matrix
    rows: Array
    rounded: npt.NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        self._operand = self.matrix.operand(self.rows)
        self._results = self._operand @ self.matrix.weight
        self.signal = float(np.square(self._results, dtype=np.float64).sum())

    def residuals(self, grids: Iterable[Grid], channels: npt.NDArray[np.float64] | None = None) -> Iterator[Array]:
        """float32 [groups, n, outputs of a group] for each grid: results less the quantized layer's, where the activation's channels are
        multiplied by `channels`, and the weights divided."""
        x, w = self._operand, self.matrix.weight
        if channels is not None:
            factor = self.matrix.spread(channels)
            x, w = x * factor.transpose(0, 2, 1), w / factor
        scales = weight_scales(w, 1)
        rounded = (quantized_weights(w, scales) if self.rounded is None else self.rounded).astype(np.float32)
        rounded *= scales
        for grid in grids:
            yield self._results - grid.rounded(x) @ rounded

    def errors(self, grids: Iterable[Grid], channels: npt.NDArray[np.float64] | None = None) -> list[float]:
        """For each grid: squared, over the squares of the results."""
        found = [float(np.square(r, dtype=np.float64).sum()) for r in self.residuals(grids, channels)]
        return [each / self.signal if self.signal else 0.0 for each in found]


def single_threaded() -> AbstractContextManager[Any]:
    """numpy's products on one thread: the same sums on every machine, and none of the threads that small products wait for."""
    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="blas")
    return limits


def decibels(error: float) -> float:
    """Signal to error of a relative squared error, rounded to a tenth."""
    return float(np.round(-10 * np.log10(max(error, 1e-30)), 1))
