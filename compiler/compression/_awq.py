"""AWQ: inputs that are large get finer steps, by scales that what stands before the layers takes back.

J. Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration" (2023), section 3.2: s = s_x^alpha for the mean
magnitude s_x of each input, alpha of a grid of 20 by the least error of the layers' outputs, Q(W diag(s)) diag(s)^-1 x for W x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._grids import fitted_grid, grouped

__all__ = ["Choice", "best_scales"]

Array = npt.NDArray[np.float64]

_ALPHAS = np.arange(20) / 20


@dataclass(frozen=True)
class Choice:
    """The alpha found, its scales float32 [K], and the squared errors of the outputs with and without them."""

    alpha: float
    scales: npt.NDArray[np.float32]
    error: float
    before: float


def best_scales(
    weights: Sequence[npt.NDArray[np.float32]],
    moments: Array,
    magnitudes: Array,
    bits: int,
    group: int | None,
    symmetric: bool,
) -> Choice:
    """For layers with the weights [rows, K] that read the same x: X X^T [K, K], and the mean of |x| [K]. Steps are those of rounding to nearest."""
    best: Choice | None = None
    narrow = moments.astype(np.float32)
    for alpha in _ALPHAS:
        scales = _scales(magnitudes, float(alpha))
        error = sum(_error(rows, scales, narrow, bits, group, symmetric) for rows in weights)
        if best is None:
            best = Choice(0.0, scales, error, error)
        elif error < best.error:
            best = Choice(float(alpha), scales, error, best.before)
    assert best is not None
    return best


def _scales(magnitudes: Array, alpha: float) -> npt.NDArray[np.float32]:
    """Around 1: divided by the geometric mean of the largest and the least, as the paper's code does. An input that is always 0 counts as the least."""
    present = magnitudes[magnitudes > 0]
    if not present.size:
        return np.ones(magnitudes.shape, np.float32)
    scales = np.maximum(magnitudes, present.min()) ** alpha
    found: npt.NDArray[np.float32] = (scales / np.sqrt(scales.max() * scales.min())).astype(np.float32)
    return found


def _error(
    rows: npt.NDArray[np.float32],
    scales: npt.NDArray[np.float32],
    moments: npt.NDArray[np.float32],
    bits: int,
    group: int | None,
    symmetric: bool,
) -> float:
    """Of Q(W diag(s)) diag(s)^-1 X, squared: the trace of D X X^T D^T for the difference D of the weights."""
    x = grouped(rows * scales, group)
    grid = fitted_grid(x, bits, symmetric, "rtn")
    found = grid.dequantize(grid.quantize(x)).reshape(len(rows), -1)[:, : rows.shape[1]]
    difference = found / scales - rows
    return float(np.sum((difference @ moments) * difference, dtype=np.float64))
