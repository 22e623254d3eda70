"""Order along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from ._operator import Array, extents, operator

__all__ = ["top_k"]


def _types(x: Any, extent: Any, *, axis: int, **_: Any) -> list[relax.TensorType]:
    shape = extents(x)
    (shape[axis],) = extents(extent)
    return [relax.TensorType(shape, str(x.ty.dtype)), relax.TensorType(shape, "int64")]


@operator(_types)
def top_k(
    x: Array, extent: Sequence[int], *, axis: int = -1, largest: int = 1, pick: str = "first", k: int = 0
) -> list[Array]:
    """(values, positions) along the axis, whose extent in the results is `extent`, a shape of one number. Positions are int64.

    `pick` is "first": the first of each line in ascending order, or with `largest` in descending order, where NaN is the largest value and ties
    stand by position; or, with an extent of 1 and `largest` 0, "kth": the one at place `k` of the line in order, "median": the lower of
    two, NaN where there is one, "nanmedian": that of what is not NaN.
    """
    size = x.shape[axis]
    if largest:  # stable: ties by position here too
        order = size - 1 - np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis=axis, kind="stable")
    if pick == "first":
        places = np.take(order, np.arange(extent[0]), axis=axis)
    else:
        missing = np.isnan(x).sum(axis=axis, keepdims=True)
        middle = {
            "kth": np.full_like(missing, k),
            "median": np.where(missing > 0, size - missing, (size - 1) // 2),
            "nanmedian": np.maximum(size - missing - 1, 0) // 2,
        }
        places = np.take_along_axis(order, middle[pick], axis=axis)
    return [np.take_along_axis(x, places, axis=axis), places.astype(np.int64)]
