"""AWQ on the IR: which products' inputs can be scaled, by how much, and where the scales go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from .._deep import heed
from .._recipes import WeightOnly
from ..passes._rewrite import array_of, is_call
from ._absorb import Changes, Graph, rescaled
from ._awq import best_scales
from ._layers import Layer
from ._moments import second_moments
from ._observe import Observer

__all__ = ["scale_inputs"]

Array = npt.NDArray[np.float64]

_SHARED = "something else reads what they read"
_NOWHERE = "what computes their input cannot take scales in"
_TIED = "a table has the same weights"


def scale_inputs(
    mod: tvm.IRModule, chosen: Sequence[Layer], recipe: WeightOnly, observer: Observer
) -> tuple[tvm.IRModule, list[str]]:
    """The module with the inputs of the products `chosen` divided by AWQ's scales and their weights multiplied by them, which computes what it
    did; and a note for the products whose inputs cannot be scaled.

    Raises as Observer.observe does.
    """
    graph = Graph(mod)
    sites: dict[relax.Expr, list[Layer]] = {}
    for layer in chosen:
        if is_call(layer.value, "relax.matmul"):
            sites.setdefault(layer.value.args[0], []).append(layer)
    tables = [array_of(layer.value.args[0]) for layer in chosen if is_call(layer.value, "relax.take")]
    refused: dict[str, list[str]] = {}
    for x, layers in list(sites.items()):
        if reason := _reason(graph, x, layers, tables):
            refused.setdefault(reason, []).extend(layer.name for layer in layers)
            del sites[x]
    changes: Changes = {}
    if sites:
        moments = second_moments(mod, [layers[0].var for layers in sites.values()], observer)
        magnitudes = _magnitudes(mod, list(sites), observer)
        for (x, layers), (_, found) in zip(sites.items(), moments, strict=True):
            heed()
            weights = [_rows_of(layer) for layer in layers]
            choice = best_scales(weights, found.sums[0], magnitudes[x], recipe.bits, recipe.group, recipe.symmetric)
            if choice.error < choice.before:
                _add(changes, graph, x, 1 / choice.scales.astype(np.float64))
    notes = [f"AWQ scales no inputs of {', '.join(names)}: {reason}" for reason, names in refused.items()]
    return rescaled(mod, changes, {}), notes


def _reason(
    graph: Graph, x: relax.Expr, layers: Sequence[Layer], tables: Sequence[npt.NDArray[np.float32] | None]
) -> str:
    """Why the input of layers cannot be scaled; "" if it can."""
    if graph.layers_reading(x) is None:
        return _SHARED
    for layer in layers:
        weight = array_of(layer.value.args[1])
        assert weight is not None
        if any(t is not None and t.shape == weight.T.shape and np.array_equal(t, weight.T) for t in tables):
            return _TIED
    depth = int(layers[0].value.args[1].ty.shape[0])
    return "" if graph.absorbed(x, np.ones(_shape(x, depth))) is not None else _NOWHERE


def _shape(x: relax.Expr, depth: int) -> list[int]:
    return [1] * (x.ty.ndim - 1) + [depth]


def _add(changes: Changes, graph: Graph, x: relax.Expr, channels: Array) -> None:
    """Multiply x by `channels`, and let what reads it compute the same."""
    readers = graph.layers_reading(x)
    made = graph.absorbed(x, channels.reshape(_shape(x, channels.size)))
    assert readers is not None and made is not None
    for part in (made, graph.unabsorbed(readers, channels)):
        for place, factor in part.items():
            changes[place] = changes[place] * factor if place in changes else factor


def _magnitudes(mod: tvm.IRModule, inputs: Sequence[relax.Expr], observer: Observer) -> Mapping[relax.Expr, Array]:
    """The mean of |x| along all axes but the last."""
    sums: dict[relax.Expr, Array] = {}

    def probe(x: relax.Expr) -> list[relax.Expr]:
        return [relax.op.mean(relax.op.abs(x), axis=list(range(x.ty.ndim - 1)))]

    def take(sample: int, values: list[list[npt.NDArray[np.float32]]]) -> None:
        for x, (mean,) in zip(inputs, values):
            sums[x] = sums[x] + mean if x in sums else mean.astype(np.float64)

    observer.observe(mod, inputs, probe, take)
    return {x: total / max(observer.count, 1) for x, total in sums.items()}


def _rows_of(layer: Layer) -> npt.NDArray[np.float32]:
    weight = array_of(layer.value.args[1])
    assert weight is not None
    return np.ascontiguousarray(weight.T)
