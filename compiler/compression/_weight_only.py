"""The recipe WeightOnly: weights of products and tables of rows as integers in groups, in front of activations that stay float32."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from .._blocks import dequantized
from .._recipes import WeightOnly
from ..passes._rewrite import Array, Rewriter, array_of, is_call, rewrite
from ._grids import Blocks, blocks_of

__all__ = ["quantize_weights"]


def quantize_weights(mod: tvm.IRModule, chosen: Sequence[relax.Var], recipe: WeightOnly) -> tvm.IRModule:
    """The products and embeddings `chosen` on weights of few bits; where a table is also a product's weight, both on the same."""
    layers = set(chosen)
    known: dict[bytes, Blocks] = {}

    def rule(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in layers:
            return None
        is_table = is_call(value, "relax.take")
        weight = array_of(value.args[0 if is_table else 1])
        assert weight is not None
        rows = np.ascontiguousarray(weight if is_table else weight.T)
        key = _key(rows)
        if key not in known:
            known[key] = blocks_of(rows, recipe.bits, recipe.group, recipe.symmetric, recipe.method)
        args = list(value.args)
        args[0 if is_table else 1] = _dequantized(rw, known[key], is_table)
        return tvm.ir.Call(value.op, args, value.attrs, list(value.ty_args), value.span)

    return rewrite(mod, rule)


def _key(rows: Array) -> bytes:
    return hashlib.blake2b(rows.data, person=str(rows.shape).encode()[:16]).digest()


def _dequantized(rw: Rewriter, blocks: Blocks, is_table: bool) -> relax.Expr:
    """As a table, rows as they are; as a product's weight, [K, rows]."""
    parts = (blocks.values, blocks.scale, blocks.zero)
    if is_table:
        return dequantized(rw.emit, *parts, axis=1, block=blocks.block)
    return dequantized(rw.emit, *(part.T for part in parts), axis=0, block=blocks.block)
