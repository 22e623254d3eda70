"""Constants that are quantized in blocks along an axis, in the one form that lowering knows them by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from ._constants import constant_of

__all__ = ["dequantized"]

Array = npt.NDArray[Any]


def dequantized(emit: Callable[[Any], Any], values: Array, scale: Array, zero: Array, axis: int, block: int) -> Any:
    """(values - zero) · scale in float32 for `values` of uint8 or int8 with scales and zero points (of their type) for each `block` of
    numbers along `axis`, the last block possibly shorter. `emit` binds an expression to a variable.

    As reshape(dequantize(q [blocks, block], axis=0)), the blocked axis last; a slice and a transpose follow where they are needed.
    """
    rank, extent = values.ndim, values.shape[axis]
    order = [*(a for a in range(rank) if a != axis), axis]
    blocks = -(-extent // block)
    rows = values.transpose(order)
    if blocks * block > extent:  # what is cut off again
        rows = np.pad(rows, [(0, 0)] * (rank - 1) + [(0, blocks * block - extent)])
    lead = list(rows.shape[:-1])
    count = math.prod(lead) * blocks
    q = constant_of(np.ascontiguousarray(rows).reshape(count, block))
    s = constant_of(np.ascontiguousarray(scale.transpose(order)).reshape(count).astype(np.float32))
    z = constant_of(np.ascontiguousarray(zero.transpose(order)).reshape(count).astype(values.dtype))
    y = emit(relax.op.dequantize(q, s, z, axis=0, out_dtype="float32"))
    y = emit(relax.op.reshape(y, relax.ShapeExpr([*lead, blocks * block])))
    if blocks * block > extent:
        y = emit(relax.op.strided_slice(y, [rank - 1], [0], [extent], assume_inbound=True))
    back = [order.index(a) for a in range(rank)]
    return y if back == list(range(rank)) else emit(relax.op.permute_dims(y, back))
