"""Low rank: a layer as two, through fewer channels than it has inputs or outputs, where that has fewer weights.

Of all factorisations W ~ B A of a rank, that of the least error of what the layer gives on the calibration data: with the moments of its
inputs X X^T = L L^T it comes from the singular values of W L (Z. Yuan et al., "ASVD", 2023; X. Wang et al., "SVD-LLM", 2024). By magnitude
L is the identity: the least error of the weights themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from maas_rt._errors import CompileError

from .._deep import heed
from .._recipes import Prune, Recipe
from ..passes._ops import constant
from ..passes._rewrite import Rewriter, is_call, rewrite
from ._channels import reads_weight
from ._layers import Layer
from ._moments import Moments, second_moments, weight_as_matrix, weight_from_matrix
from ._observe import Observer
from ._prune import Pruned, method_of

__all__ = ["FACTOR", "factorise", "factors"]

Array = npt.NDArray[Any]

FACTOR = ".rank"  # behind the name of a layer: that of the first of the two
_PANEL = 16  # ranks that a kernel takes at once
_DAMPING = 1e-6  # of the mean of the moments' diagonal


def factorise(
    mod: tvm.IRModule, found: Sequence[Layer], recipe: Recipe, observer: Observer | None, pruned: Pruned
) -> tvm.IRModule:
    """The module with two layers for one where that saves; the first of the two has the layer's name and `.rank` behind it.

    Raises as Observer.observe does; CompileError for a layer that reads what is not finite.
    """
    values = {b.var: b.value for block in mod["main"].body.blocks for b in block.bindings}
    chosen: dict[relax.Var, tuple[Layer, Prune, int]] = {}
    for layer in found:
        method, _ = method_of(layer, recipe)
        if method is None or method.pattern != "low_rank":
            continue
        value = values.get(layer.var)
        rank, reason = _rank(value, method.sparsity)
        if reason:
            pruned.leave(layer, reason)
        else:
            chosen[layer.var] = (layer, method, rank)
    by_data = [var for var, (_, method, _) in chosen.items() if method.method != "magnitude"]
    weights = {var: _factors(values[var], chosen[var], None) for var in chosen if var not in by_data}
    if observer is not None:
        for var, moments in second_moments(mod, by_data, observer):
            heed()
            weights[var] = _factors(values[var], chosen[var], moments)
    for var, (layer, method, rank) in chosen.items():
        size, left = int(weight_as_matrix(values[var]).size), sum(int(part.size) for part in weights[var])
        pruned.layers.append({
            "name": layer.name, "kind": layer.kind, "method": method.method, "pattern": "low_rank", "weights": size,
            "zeros": size - left, "rank": rank,
        })  # fmt: skip
    return _replaced(mod, {var: layer.name + FACTOR for var, (layer, _, _) in chosen.items()}, weights)


def _rank(value: relax.Expr | None, sparsity: float) -> tuple[int, str]:
    """The rank that leaves 1 - sparsity of the weights, in whole panels; or why there is none."""
    if value is None or not reads_weight(value):
        return 0, "only products and convolutions with constant weights are factorised"
    if not is_call(value, "relax.matmul") and int(value.attrs.groups) > 1:
        return 0, "its groups have few weights each"
    if not np.isfinite(weight_as_matrix(value)).all():
        return 0, "its weights are not finite numbers"
    _, outputs, depth = weight_as_matrix(value).shape
    rank = int((1 - sparsity) * outputs * depth / (outputs + depth)) // _PANEL * _PANEL
    if not rank:
        return 0, f"its {outputs} outputs of {depth} inputs have no rank of {_PANEL} that saves so much"
    return rank, ""


def _factors(value: relax.Call, chosen: tuple[Layer, Prune, int], moments: Moments | None) -> tuple[Array, Array]:
    """The weights of both layers, in the form of their operators."""
    layer, _, rank = chosen
    if moments is not None and not np.isfinite(moments.sums).all():
        raise CompileError(f"layer {layer.name} reads numbers that are not finite, or whose squares are not")
    matrix = weight_as_matrix(value)[0]
    back, inner = factors(matrix, None if moments is None else moments.sums[0], rank)
    first = weight_from_matrix(value, inner[None].astype(np.float32))
    if is_call(value, "relax.matmul"):
        return first, np.ascontiguousarray(back.T.astype(np.float32))
    return first, np.ascontiguousarray(back.astype(np.float32).reshape(*back.shape, *[1] * (first.ndim - 2)))


def factors(weight: Array, moments: Array | None, rank: int) -> tuple[Array, Array]:
    """(B [outputs, rank], A [rank, depth]) of weight [outputs, depth], by the moments [depth, depth] of its inputs."""
    weight = weight.astype(np.float64)
    if moments is None:
        left, values, right = np.linalg.svd(weight, full_matrices=False)
        return left[:, :rank] * values[:rank], right[:rank]
    mean = float(np.mean(np.diagonal(moments))) or 1.0
    root = np.linalg.cholesky(moments + _DAMPING * mean * np.eye(len(moments)))
    left, values, right = np.linalg.svd(weight @ root, full_matrices=False)
    return left[:, :rank] * values[:rank], np.linalg.solve(root.T, right[:rank].T).T


def _replaced(
    mod: tvm.IRModule, names: Mapping[relax.Var, str], weights: Mapping[relax.Var, tuple[Array, Array]]
) -> tvm.IRModule:
    def rule(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in weights:
            return None
        first, second = (constant(part) for part in weights[var])
        inner = rw.emit(
            tvm.ir.Call(value.op, [value.args[0], first], value.attrs, list(value.ty_args), value.span), names[var]
        )
        if is_call(value, "relax.matmul"):
            return relax.op.matmul(inner, second)
        attrs, ndim = value.attrs, len(weights[var][1].shape)
        convolution = {3: relax.op.nn.conv1d, 4: relax.op.nn.conv2d, 5: relax.op.nn.conv3d}[ndim]
        return convolution(inner, second, data_layout=attrs.data_layout, kernel_layout=attrs.kernel_layout)

    return rewrite(mod, rule)
