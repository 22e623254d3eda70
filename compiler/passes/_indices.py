"""Indices of lookups as a run has them."""

from __future__ import annotations

from tvm import relax

from ._dims import shape_of
from ._ops import dtype_of
from ._rewrite import Rewriter, is_call

__all__ = ["run_indices"]


def run_indices(rw: Rewriter, indices: relax.Expr) -> relax.Expr | None:
    """What was narrowed or flattened for TVM's sake, as it was before; None unless it is int32 or int64 of a known rank."""
    while (inner := rw.call(indices, "relax.astype", "relax.reshape")) is not None:
        if is_call(inner, "relax.astype") and not (dtype_of(inner.args[0]) == "int64" and dtype_of(indices) == "int32"):
            break
        indices = inner.args[0]
    return indices if dtype_of(indices) in ("int32", "int64") and shape_of(indices) is not None else None
