"""The recipe Half: weights of products in 16 bits, and tables of rows, widened where rows have been taken."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import tvm
from tvm import relax

from .._recipes import Half
from ..ir import widen
from ..passes._ops import constant
from ..passes._rewrite import Rewriter, array_of, is_call, rewrite

__all__ = ["store_half"]


def store_half(mod: tvm.IRModule, chosen: Sequence[relax.Var], recipe: Half) -> tvm.IRModule:
    """The products and embeddings `chosen` on weights in 16 bits."""
    layers = set(chosen)
    dtype = np.dtype(getattr(ml_dtypes, recipe.dtype, recipe.dtype))

    def rule(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in layers:
            return None
        if is_call(value, "relax.matmul"):
            weight = array_of(value.args[1])
            assert weight is not None
            stored = rw.emit(widen(constant(weight.astype(dtype))))
            return tvm.ir.Call(value.op, [value.args[0], stored], value.attrs, list(value.ty_args), value.span)
        table = array_of(value.args[0])
        assert table is not None
        args = [constant(table.astype(dtype)), *value.args[1:]]
        rows = rw.emit(tvm.ir.Call(value.op, args, value.attrs, list(value.ty_args), value.span))
        return relax.op.astype(rows, "float32")

    return rewrite(mod, rule)
