"""Random numbers, a function of the run's seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import relax

from ._operator import Array, extents, operator
from ._philox import drawn

__all__ = ["random"]


def _types(seed: Any, shape: Any, draw: Any, *, dtype: str, **_: Any) -> list[relax.TensorType]:
    return [relax.TensorType(extents(shape), dtype)]


@operator(_types)
def random(
    seed: Array, shape: Sequence[int], draw: Array | None = None, *, kind: str, dtype: str, number: int = 0
) -> list[Array]:
    """A tensor of `kind` "uniform" (in [0, 1)) or "normal" (mean 0, deviation 1), float32 or float64, or "bits", uint64.

    An element is a function of the seed, uint64 [1], the operator's `number` in the model, the draw (int64 with one element: which
    iteration of the loops around) and its own place, and of nothing else: see _philox.py.
    """
    once = 0 if draw is None else int(draw.reshape(()))
    count = math.prod(shape)
    return [drawn(kind, count, dtype, key=int(seed[0]), number=number, draw=once).reshape(tuple(shape))]
