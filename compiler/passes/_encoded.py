"""Constants of few bits where passes meet them: what a variable decodes, and what moves that."""

from __future__ import annotations

from tvm import relax

from ..ir import Encoded, read_encoded
from ._dims import static_shape
from ._rewrite import Rewriter, is_call

__all__ = ["MOVES", "encoded", "moved", "moved_weights"]

MOVES = ("relax.reshape", "relax.permute_dims")


def encoded(rw: Rewriter, expr: relax.Expr) -> Encoded | None:
    """The constant that a rewritten variable decodes; None of anything else."""
    return read_encoded(rw.definition(expr))


def moved(constant: Encoded, move: relax.Call) -> Encoded | None:
    """What a reshape or a transpose (one of MOVES) makes of it; None where its scales cannot follow."""
    if is_call(move, "relax.reshape"):
        shape = static_shape(move)
        return None if shape is None else constant.reshaped(shape)
    rank = constant.values.ndim
    axes = range(rank)[::-1] if move.attrs.axes is None else [int(axis) % rank for axis in move.attrs.axes]
    return constant.transposed(list(axes))


def moved_weights(rw: Rewriter, value: relax.Call) -> relax.Expr | None:
    """permute(decode(constants)) or reshape(decode(constants)) as decode(moved constants)."""
    constant = encoded(rw, value.args[0])
    found = None if constant is None else moved(constant, value)
    return None if found is None else found.call()
