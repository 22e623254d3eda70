"""Activations that are rounded to 8 bits in blocks (`round_to_bytes`) in front of products: what a kernel reads instead, and the formula for
where there is none."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ..ir import BYTE_BLOCK, read_operator, round_to_bytes
from ._dims import extents
from ._ops import constant, reshape
from ._rewrite import Rewriter

__all__ = ["in_floats", "unrounded"]


def unrounded(rw: Rewriter, expr: relax.Expr) -> relax.Expr | None:
    """What a rewritten variable is rounded from; None where it is not."""
    call = read_operator(rw.definition(expr))
    return call.args[0] if call is not None and call.operator is round_to_bytes else None


def in_floats(rw: Rewriter, x: relax.Expr) -> relax.Expr:
    """`round_to_bytes` of x by Relax's operators; scales below the least number with a full mantissa are that."""
    op = relax.op
    *lead, depth = extents(x)
    blocks = -(-depth // BYTE_BLOCK)
    behind = blocks * BYTE_BLOCK - depth
    if behind:
        x = rw.emit(op.nn.pad(x, [0, 0] * len(lead) + [0, behind]))
    x = rw.emit(reshape(x, [*lead, blocks, BYTE_BLOCK]))
    steps = constant(np.asarray(127, np.float32))
    least = constant(np.asarray(np.finfo(np.float32).tiny, np.float32))
    largest = rw.emit(op.max(rw.emit(op.abs(x)), -1, True))
    scale = rw.emit(op.maximum(rw.emit(op.divide(largest, steps)), least))
    q = rw.emit(op.clip(rw.emit(op.round(rw.emit(op.divide(x, scale)))), -127, 127))
    y = rw.emit(reshape(rw.emit(op.multiply(q, scale)), [*lead, blocks * BYTE_BLOCK]))
    return op.strided_slice(y, [len(lead)], [0], [depth], assume_inbound=True) if behind else y
