"""What a run must find before it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from ._operator import Array, extents, operator

__all__ = ["check"]


def _types(sizes: Any, **_: Any) -> list[relax.ShapeType]:
    shape = extents(sizes)
    return [relax.ShapeType(ndim=int(shape[0]) if isinstance(sizes.ty, relax.TensorType) else len(shape))]


@operator(_types)
def check(sizes: Array | Sequence[int], *, kind: str, text: str) -> list[list[int]]:
    """The sizes as a shape, for the match_cast behind it; a run says the text of those that it refuses.

    Of an int64 tensor [n] symbols are bound to the sizes, which are not negative, and `kind` is the attribute of the plan's step
    (FORMAT.md). Of a shape the match_cast compares sizes, and the text is the place: "extent", or "volume", as many elements as what a
    tensor is reshaped to.
    """
    if min(sizes) < 0:
        raise ValueError(text)
    return [[int(size) for size in sizes]]
