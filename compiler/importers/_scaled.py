"""An extent times a number that is no whole one, rounded down as a framework's floating point does it, as a quotient of whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_EXTENT", "ratio_of"]

MAX_EXTENT = (
    1 << 20
)  # up to where the products of an extent without an upper bound are compared; larger ones a run refuses
_DENOMINATORS = (1, 16, 256, 4096, 1 << 16, 1 << 20)


def ratio_of(
    scale: float, low: int, high: int, rounded: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
) -> Fraction | None:
    """The simplest fraction p / q for which extent * p // q is what `rounded` gives for every extent from low to high; None if none is found."""
    extents = np.arange(low, high + 1, dtype=np.int64)
    wanted = rounded(extents)
    for max_denominator in _DENOMINATORS:
        ratio = Fraction(scale).limit_denominator(max_denominator)
        if np.array_equal(extents * ratio.numerator // ratio.denominator, wanted):
            return ratio
    return None
