"""Bias correction: what quantization moves the mean of a layer's results by is added back to each channel.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), section 4.2, empirically: E[W x] - E[W_q x_q]
over rows of calibration data.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["correction"]

Array = npt.NDArray[np.float32]


def correction(residual: Array) -> tuple[Array | None, float, float]:
    """float32 [channels] to add, and the squared errors of such rows without and with it, of `residual` [groups, n, outputs of a group].

    A channel has one where what one half of the rows would add makes the error of the other half less, both ways taken together: a mean of
    few rows is mostly noise. None where no channel gains.
    """
    rows = residual.transpose(1, 0, 2).reshape(residual.shape[1], -1).astype(np.float64)
    halves = rows[0::2], rows[1::2]
    before = np.square(rows).sum(axis=0)
    if not len(halves[1]):
        return None, float(before.sum()), float(before.sum())
    crossed = sum(np.square(judged - used.mean(axis=0)).sum(axis=0) for used, judged in (halves, halves[::-1]))
    gains = crossed < before
    after = float(np.where(gains, crossed, before).sum())
    return (
        (np.where(gains, rows.mean(axis=0), 0).astype(np.float32) if gains.any() else None),
        float(before.sum()),
        after,
    )
