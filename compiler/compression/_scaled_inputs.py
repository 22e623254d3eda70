"""AWQ on the IR: which products' inputs can be scaled, by how much, and where the scales go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
from ._moments import Moments

__all__ = ["scale_inputs"]

Array = npt.NDArray[np.float64]

_SHARED = "something else reads what they read"
_NOWHERE = "what computes their input cannot take scales in"
_TIED = "a table has the same weights"


def scale_inputs(
    mod: tvm.IRModule, chosen: Sequence[Layer], recipe: WeightOnly, moments: Iterable[tuple[relax.Var, Moments]]
) -> tuple[tvm.IRModule, dict[str, Array], list[str]]:
    """The module with the inputs of the products `chosen` divided by AWQ's scales and their weights multiplied by them, which computes what it
    did; the scales [K] by the products' names; and a note for the products whose inputs cannot be scaled. `moments` are those of the
    products' inputs, each read when its turn comes."""
    graph = Graph(mod)
    sites: dict[relax.Expr, list[Layer]] = {}
    for layer in chosen:
        if is_call(layer.value, "relax.matmul"):
            sites.setdefault(layer.value.args[0], []).append(layer)
    tables = [array_of(layer.value.args[0]) for layer in chosen if is_call(layer.value, "relax.take")]
    refused: dict[str, list[str]] = {}
    first: dict[relax.Var, tuple[relax.Expr, list[Layer]]] = {}
    for x, layers in sites.items():
        if reason := _reason(graph, x, layers, tables):
            refused.setdefault(reason, []).extend(layer.name for layer in layers)
        else:
            first[layers[0].var] = x, layers
    changes: Changes = {}
    scales: dict[str, Array] = {}
    for var, found in moments if first else ():
        if var not in first:
            continue
        heed()
        x, layers = first[var]
        weights = [_rows_of(layer) for layer in layers]
        magnitudes = _together(
            found.magnitudes[0] / max(found.columns, 1), graph.tied(x, _shape(x, weights[0].shape[1]))
        )
        choice = best_scales(weights, found.sums[0], magnitudes, recipe.bits, recipe.group, recipe.symmetric)
        if choice.error < choice.before:
            own = choice.scales.astype(np.float64)
            _add(changes, graph, x, 1 / own)
            scales.update(dict.fromkeys((layer.name for layer in layers), own))
    notes = [f"AWQ scales no inputs of {', '.join(names)}: {reason}" for reason, names in refused.items()]
    return rescaled(mod, changes, {}), scales, notes


def _together(magnitudes: Array, tied: npt.NDArray[np.int64]) -> Array:
    """Of channels that have one scale, the mean."""
    counts, sums = np.bincount(tied), np.bincount(tied, magnitudes)
    return np.asarray(sums[tied] / counts[tied])


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


def _rows_of(layer: Layer) -> npt.NDArray[np.float32]:
    weight = array_of(layer.value.args[1])
    assert weight is not None
    return np.ascontiguousarray(weight.T)
