"""Weights that a checkpoint has in few bits: they stay so where products and tables alone read them, as long as they are the module's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import fx

from ...ir import Encoded
from ._dtypes import to_numpy
from ._signature import Entry

__all__ = ["encoded_weight"]

_READERS = {
    f"aten.{name}" for name in ("linear.default", "mm.default", "addmm.default", "matmul.default", "embedding.default")
}
_TURNS = {f"aten.{name}" for name in ("t.default", "permute.default", "transpose.int")}
_ROUNDING = 2  # units in the last place, where a factor was multiplied in another order


def encoded_weight(graph: fx.Graph, entry: Entry, encoded: Callable[[], Encoded | None]) -> Encoded | None:
    """The constant `entry` in the bits of its checkpoint; None where something else reads it, or where it has other numbers by now (a load
    hook, a fold), another type, or no such form."""
    node = next(each for each in graph.nodes if each.name == entry.name)
    if entry.tensor.dtype != torch.float32 or not _is_weight(node):
        return None
    found = encoded()
    if found is None or found.values.shape != tuple(entry.tensor.shape):
        return None
    floats, stored = found.floats(), to_numpy(entry.tensor)
    return found if (np.abs(floats - stored) <= _ROUNDING * np.spacing(np.abs(stored))).all() else None


def _is_weight(node: fx.Node) -> bool:
    return bool(node.users) and all(
        str(user.target) in _READERS or (str(user.target) in _TURNS and _is_weight(user)) for user in node.users
    )
