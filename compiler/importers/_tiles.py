"""Whether the chunks of a sharded tensor cover it exactly: no element twice, none left out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ._safe_pickle import RefusedPickleError

__all__ = ["check_tiling"]

_MOST_CELLS = 1 << 24
Box = tuple[tuple[int, ...], tuple[int, ...]]  # offsets, extents


def check_tiling(name: str, size: Sequence[int], chunks: Sequence[Box]) -> None:
    """Raises RefusedPickleError unless the chunks, each within `size`, tile it.

    The chunks' own boundaries cut the tensor into cells, few however long it is; each cell must be covered once.
    """
    if not chunks:
        raise RefusedPickleError(f"{name} has no chunks")
    filled = sum(math.prod(extents) for _, extents in chunks)
    if filled != math.prod(size):
        raise RefusedPickleError(f"the chunks of {name} hold {filled} of {math.prod(size)} elements")
    boxes = [box for box in chunks if 0 not in box[1]]
    if len(boxes) < 2:
        return
    cuts = [sorted({p for o, e in boxes for p in (o[axis], o[axis] + e[axis])}) for axis in range(len(size))]
    if math.prod(len(c) for c in cuts) > _MOST_CELLS:
        raise RefusedPickleError(f"{name} is cut into too many chunks")
    cell = [{position: index for index, position in enumerate(c)} for c in cuts]
    covered = np.zeros([len(c) - 1 for c in cuts], np.bool_)
    for offsets, extents in boxes:
        where = tuple(slice(cell[a][o], cell[a][o + e]) for a, (o, e) in enumerate(zip(offsets, extents)))
        if covered[where].any():
            raise RefusedPickleError(
                f"the chunks of {name} overlap and leave a gap: some elements are stored twice, others not at all"
            )
        covered[where] = True
