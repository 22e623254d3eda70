"""Which generated functions compute each element of their result from the same elements of their operands, whatever the order of axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import tirx

from ._stages import children, parse_stages

__all__ = ["is_pointwise"]


def is_pointwise(func: tirx.PrimFunc) -> bool:
    """Whether element i of the one result depends on elements i of the operands alone, and not on i itself."""
    parsed = parse_stages(func)
    if parsed is None or len(parsed.stages) != 1:
        return False
    (stage,) = parsed.stages
    if stage.inits or len(stage.stores) != 1:
        return False
    (store,) = stage.stores
    if any(not isinstance(index, tirx.Var) for index in store.indices) or len(set(store.indices)) != len(store.indices):
        return False
    axes = set(store.indices) | set(stage.env)
    return all(_same_element(value, store.indices, axes) for value in (*(bind for _, bind in stage.binds), store.value))


def _same_element(value: Any, place: Sequence[Any], axes: set[Any]) -> bool:
    pending = [value]
    while pending:
        node = pending.pop()
        if isinstance(node, tirx.Var) and node in axes:
            return False
        if not isinstance(node, tvm.ir.TensorLoad):
            pending.extend(children(node))
            continue
        if len(node.indices) != len(place):
            return False
        for index, at, extent in zip(node.indices, place, node.source.shape, strict=True):
            only = isinstance(extent, tirx.IntImm) and int(extent.value) == 1  # an axis of 1, whose index is 0
            if not index.same_as(at) and not (only and isinstance(index, tirx.IntImm)):
                return False
    return True
