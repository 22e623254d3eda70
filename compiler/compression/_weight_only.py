"""The recipe WeightOnly: weights of products and tables of rows as integers in groups, in front of activations that stay float32 or are rounded
to 8 bits by each run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import tvm
from tvm import relax

from maas_rt._errors import CompileError

from .._deep import heed
from .._recipes import WeightOnly
from ..ir import Encoded, round_to_bytes
from ..passes._halves import halves
from ..passes._rewrite import Array, Rewriter, array_of, is_call, rewrite
from ._gptq import gptq
from ._grids import HALVES, Blocks, blocks_of
from ._layers import Layer, layers
from ._moments import LEAST_DAMPING, Moments, note_of_few, second_moments
from ._observe import Observer
from ._scaled_inputs import scale_inputs

__all__ = ["quantize_weights"]

_Known = dict[bytes, Blocks]  # by what they stand for, so that what is tied gets the same numbers


def quantize_weights(
    mod: tvm.IRModule, chosen: Sequence[Layer], recipe: WeightOnly, observer: Observer | None
) -> tuple[tvm.IRModule, list[str]]:
    """The products and embeddings `chosen` on weights of few bits, and what is to be said of the data.

    Raises CompileError for an activation that is not finite.
    """
    known: _Known = {}
    notes: list[str] = []
    method = recipe.method if recipe.method == "rtn" else "mse"
    if recipe.method in ("gptq", "awq", "awq+gptq"):
        assert observer is not None
        mod, known, notes = _by_data(mod, chosen, recipe, observer)
        names = {layer.name for layer in chosen}
        chosen = [layer for layer in layers(mod) if layer.name in names]
    by_var = {layer.var: layer for layer in chosen}
    wide: list[str] = []  # layers whose scales float16 does not hold
    shared: dict[relax.Expr, relax.Expr] = {}  # by what is read: it in 8 bits

    def rule(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in by_var:
            return None
        heed()
        rows, is_table = _rows(value), is_call(value, "relax.take")
        key = _key(rows)
        if key not in known:
            known[key] = blocks_of(rows, recipe.bits, recipe.group, recipe.symmetric, method, recipe.scales)
        if recipe.scales == "float16" and halves(known[key].scale) is None:
            wide.append(by_var[var].name)
        args = list(value.args)
        args[0 if is_table else 1] = rw.emit(_encoded(known[key], is_table).call())
        if recipe.activations == "int8" and not is_table:
            rounded = {} if by_var[var].nested else shared  # what is bound within a branch is not seen behind it
            if args[0] not in rounded:
                rounded[args[0]] = rw.emit(round_to_bytes(args[0]))
            args[0] = rounded[args[0]]
        return tvm.ir.Call(value.op, args, value.attrs, list(value.ty_args), value.span)

    mod = rewrite(mod, rule)
    if wide:
        least, most = HALVES
        notes.append(
            f"scales of {', '.join(wide)} stay float32: some are beyond float16's normal numbers, {least:.2g} to {most:.0f}"
        )
    return mod, notes


def _by_data(
    mod: tvm.IRModule, chosen: Sequence[Layer], recipe: WeightOnly, observer: Observer
) -> tuple[tvm.IRModule, _Known, list[str]]:
    """The module with AWQ's scales in it, and the products' weights by GPTQ, as the recipe has them: of both, AWQ's scales come first."""
    products = [layer for layer in chosen if is_call(layer.value, "relax.matmul")]
    moments = second_moments(mod, [layer.var for layer in products], observer)
    notes: list[str] = []
    if recipe.method == "awq":
        mod, _, notes = scale_inputs(mod, chosen, recipe, moments)
        return mod, {}, notes
    found = dict(moments)
    by_name = {layer.name: found[layer.var] for layer in products}
    if recipe.method == "awq+gptq":
        mod, scales, notes = scale_inputs(mod, chosen, recipe, found.items())
        found.clear()  # they are large: those of a site go when its scaled ones are there
        scaled: dict[int, Moments] = {}  # by the scales, which layers of a site share
        for name, own in scales.items():
            if id(own) not in scaled:
                scaled[id(own)] = by_name[name].scaled(1 / own)
            by_name[name] = scaled[id(own)]
        products = [layer for layer in layers(mod) if layer.name in by_name]
    known, more = _by_hessians(products, by_name, recipe)
    return mod, known, [*notes, *more]


def _by_hessians(
    products: Sequence[Layer], found: Mapping[str, Moments], recipe: WeightOnly
) -> tuple[_Known, list[str]]:
    """Weights by GPTQ; of a weight that several products have, X X^T is their sum."""
    hessians: dict[bytes, Array] = {}
    rows: dict[bytes, tuple[Array, Layer]] = {}
    seen: list[tuple[str, int, int]] = []
    for layer in products:
        moments = found[layer.name]
        if not np.isfinite(moments.sums).all():
            raise CompileError(
                f"calibration gives the layer {layer.name} numbers whose squares are not finite, of which GPTQ can make nothing: leave such "
                "samples out, or take the method mse"
            )
        own = _rows(layer.value)
        key = _key(own)
        rows.setdefault(key, (own, layer))
        hessians[key] = hessians[key] + moments.sums[0] if key in hessians else moments.sums[0]
        seen.append((layer.name, moments.columns, own.shape[1]))
    known: _Known = {}
    raised: list[str] = []
    for key, (own, layer) in rows.items():
        heed()
        known[key], damping = gptq(
            own, hessians[key], recipe.bits, recipe.group, recipe.symmetric, recipe.act_order, recipe.scales
        )
        if damping > LEAST_DAMPING:
            raised.append(layer.name)
    notes = note_of_few("GPTQ", seen)
    if raised:
        notes.append(f"GPTQ raised its damping until it could factor the Hessian of {', '.join(raised)}")
    return known, notes


def _rows(value: relax.Call) -> Array:
    """The weights of a product [outputs, inputs], or the rows of a table."""
    is_table = is_call(value, "relax.take")
    weight = array_of(value.args[0 if is_table else 1])
    assert weight is not None
    return np.ascontiguousarray(weight if is_table else weight.T)


def _key(rows: Array) -> bytes:
    return hashlib.blake2b(rows.data, person=str(rows.shape).encode()[:16]).digest()


def _encoded(blocks: Blocks, is_table: bool) -> Encoded:
    """As a table, rows as they are; as a product's weight, [K, rows]."""
    rows = Encoded(blocks.values, blocks.scale, blocks.zero, axis=1, block=blocks.block)
    return rows if is_table else rows.transposed([1, 0])
