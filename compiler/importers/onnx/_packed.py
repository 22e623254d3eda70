"""Numbers of 2, 4 or 8 bits, several in a byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["unpacked"]

Array = npt.NDArray[Any]


def unpacked(packed: Array, bits: int, count: int) -> Array:
    """`count` numbers of 2, 4 or 8 bits along the last axis of bytes, the first in a byte's lowest bits."""
    if bits == 8:
        return packed[..., :count]
    each = 8 // bits
    parts = [(packed >> np.uint8(bits * i)) & np.uint8((1 << bits) - 1) for i in range(each)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], packed.shape[-1] * each)[..., :count]
