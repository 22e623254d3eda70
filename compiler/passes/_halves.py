"""Scales that float16 holds as they are, which kernels read in 16 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["halves"]


def halves(scale: npt.NDArray[Any]) -> npt.NDArray[np.float16] | None:
    """float32 numbers in float16; None where one is lost or changed by that, or is none."""
    with np.errstate(over="ignore"):
        found: npt.NDArray[np.float16] = scale.astype(np.float16)
    return found if np.array_equal(found.astype(np.float32), scale) and np.isfinite(scale).all() else None
