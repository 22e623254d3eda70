"""Channels, neurons and attention heads taken away: what is left is a smaller model, and the layers behind make up for what is gone.

What goes: the channels that say least in the layers that read them, by the norm of their weights (times that of the weights that make
them) or, there being no gradients to know better, of weights times activations. What a layer loses with its inputs it gets back by least squares on the calibration data: with C the
covariance of its inputs, k those that stay and r those that go, W_k + W_r C_rk C_kk^-1, and what the means say for the bias; this is
exact for inputs that are constants or linear in others. (H. Zhang et al., "Accelerating Very Deep Convolutional Networks", 2016;
Y. He, X. Zhang, J. Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", 2017, with all rows of a channel at once.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from maas_rt._errors import CompileError

from .._deep import heed
from .._recipes import Prune, Recipe
from ..passes._rewrite import array_of, is_call
from ._channels import Channels, channels_of, reads_weight
from ._layers import Layer
from ._moments import Moments, second_moments, square_sums, weight_as_matrix, weight_from_matrix
from ._observe import Observer
from ._prune import Pruned, method_of
from ._shrink import Refit, shrink

__all__ = ["prune_structured"]

Array = npt.NDArray[Any]

_PANEL, _DEPTHWISE_PANEL = 16, 8  # channels that a kernel takes at once
_DAMPING = 1e-3  # of the mean variance


@dataclass
class _Reader:
    """A layer, by its result, that sums over channels: input positions' labels."""

    var: relax.Var
    value: relax.Call
    labels: npt.NDArray[np.int64]


def prune_structured(
    mod: tvm.IRModule, found: Sequence[Layer], recipe: Recipe, observer: Observer | None, pruned: Pruned
) -> tvm.IRModule:
    """The smaller module; records and reasons go to `pruned`. `observer`: None where all is by magnitude.

    Raises:
        CompileError: a model with branches or loops. As Observer.observe.
    """
    values = _values(mod)
    graph = channels_of(mod)
    methods = {layer.var: method_of(layer, recipe)[0] for layer in found if layer.var in values}
    for var, method in methods.items():
        if method is None or method.pattern != "structured" or not method.sparsity:
            _fix_layer(graph, var, values[var])
    readers = _readers(graph, values)
    gone, reasons = _chosen(graph, values, methods, _importance(mod, graph, values, readers, methods, observer))
    for layer in found:
        _record(layer, graph, values, methods, gone, reasons, pruned)
    if not gone:
        return mod
    losing = [reader for reader in readers if any(graph.root(int(label)) in gone for label in reader.labels)]
    refits = _refits(mod, graph, losing, methods, gone, observer)
    return shrink(mod, graph, gone, refits)


def _values(mod: tvm.IRModule) -> dict[relax.Var, relax.Expr]:
    values = {}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            plain = (relax.Tuple, relax.TupleGetItem, relax.Var)
            if isinstance(binding, relax.MatchCast) or not (is_call(binding.value) or isinstance(binding.value, plain)):
                raise CompileError(
                    "the pattern structured is not for models with branches, loops or sizes that their data decide: take another pattern"
                )
            values[binding.var] = binding.value
    return values


def _axis(value: relax.Call) -> int:
    return -1 if is_call(value, "relax.matmul") else 1


def _fix_layer(graph: Channels, var: relax.Var, value: relax.Expr) -> None:
    if reads_weight(value):
        axis = _axis(value)
        graph.fix([graph.of(var)[axis], graph.of(value.args[0])[axis]], "the recipe leaves it whole")


def _readers(graph: Channels, values: Mapping[relax.Var, relax.Expr]) -> list[_Reader]:
    """Layers that sum over all of their input's channels."""
    found = []
    for var, value in values.items():
        if not reads_weight(value) or (not is_call(value, "relax.matmul") and int(value.attrs.groups) > 1):
            continue
        labels = graph.of(value.args[0])[_axis(value)]
        if labels is not None:
            found.append(_Reader(var, value, labels))
    return found


# ---- what goes


def _importance(
    mod: tvm.IRModule, graph: Channels, values: Mapping[relax.Var, relax.Expr], readers: Sequence[_Reader], methods: Mapping[relax.Var, Prune | None],
    observer: Observer | None,
) -> dict[int, float]:  # fmt: skip
    """By root: the share that its channels have in the energy of what the layers that read them give, summed over these; by magnitude, in
    their weights."""
    by_data = [r.var for r in readers if (m := methods.get(r.var)) is not None and m.method != "magnitude"]
    squares = square_sums(mod, by_data, observer) if observer is not None else {}
    found: dict[int, float] = {}
    for reader in readers:
        matrix = weight_as_matrix(reader.value)[0].astype(np.float64)
        energy = (matrix**2).sum(0) * (squares[reader.var].sums[0] if reader.var in squares else 1.0)
        if not np.isfinite(energy).all():
            raise CompileError(f"layer {reader.var.name} reads numbers that are not finite, or whose squares are not")
        by_channel = energy.reshape(len(reader.labels), -1).sum(1) / (energy.sum() or 1.0)
        for label, share in zip(reader.labels, by_channel):
            root = graph.root(int(label))
            found[root] = found.get(root, 0.0) + float(share)
    return found


def _made(graph: Channels, values: Mapping[relax.Var, relax.Expr]) -> dict[int, float]:
    """By root: the share of its channels in the squares of the weights of the layers that give them, summed over these."""
    found: dict[int, float] = {}
    for var, value in values.items():
        if not reads_weight(value):
            continue
        squares = (weight_as_matrix(value).astype(np.float64) ** 2).sum(2).reshape(-1)
        for label, share in zip(_outputs(graph, var, values), squares / (squares.sum() or 1.0)):
            root = graph.root(int(label))
            found[root] = found.get(root, 0.0) + float(share)
    return found


def _chosen(
    graph: Channels, values: Mapping[relax.Var, relax.Expr], methods: Mapping[relax.Var, Prune | None],
    importance: Mapping[int, float],
) -> tuple[set[int], dict[int, str]]:  # fmt: skip
    """Roots that go; and by root why those that belong to a layer with too few stay."""
    gone: set[int] = set()
    made = _made(graph, values)
    reasons: dict[int, str] = {}
    for family in _families(graph):
        layers = [
            v for v in methods if reads_weight(values[v]) and graph.root(int(_outputs(graph, v, values)[0])) in family
        ]
        chosen = {id(methods[var]): methods[var] for var in layers}
        free = [root for root in family if root not in graph.fixed and root in importance]
        if len(chosen) != 1 or not free:
            some = "its channels and those of another layer go together, and the recipe differs"
            for root in family:
                reasons[root] = graph.fixed.get(root, some if len(chosen) > 1 else "no layer sums over its channels")
            continue
        (method,) = chosen.values()
        assert method is not None
        widths = [np.unique(graph.roots(_outputs(graph, var, values)), return_counts=True)[1].max() for var in layers]
        depthwise = any(_is_depthwise(values[var]) for var in layers)
        multiple = max(1, (_DEPTHWISE_PANEL if depthwise else _PANEL) // int(max(widths)))
        keep = max(multiple, -(-round(len(family) * (1 - method.sparsity)) // multiple) * multiple)
        count = min(max(0, len(family) - keep), len(free))
        count -= (count - len(family)) % multiple
        if count <= 0:
            for root in family:
                reasons[root] = (
                    f"its {len(family)} channels or groups of them are too few to take away a panel of {multiple}"
                )
            continue
        plain = method.method == "magnitude"  # what makes them counts where no data say what comes of it
        scores = {root: importance[root] * (made[root] if plain else 1.0) for root in free}
        gone.update(sorted(free, key=lambda root: (scores[root], root))[:count])
    return gone, reasons


def _families(graph: Channels) -> list[list[int]]:
    """Roots that some layer has side by side, together."""
    parent: dict[int, int] = {}

    def top(x: int) -> int:
        while parent.setdefault(x, x) != x:
            x = parent[x]
        return x

    for made in graph.made:
        roots = [top(graph.root(int(label))) for label in made]
        for root in roots[1:]:
            parent[top(root)] = top(roots[0])
    found: dict[int, list[int]] = {}
    for made in graph.made:
        for label in made:
            root = graph.root(int(label))
            members = found.setdefault(top(root), [])
            if not members or root not in set(members[-1:]):
                members.append(root)
    return [sorted(set(members)) for members in found.values()]


def _outputs(graph: Channels, var: relax.Var, values: Mapping[relax.Var, relax.Expr]) -> npt.NDArray[np.int64]:
    labels = graph.of(var)[_axis(values[var])]
    assert labels is not None
    return labels


def _is_depthwise(value: relax.Call) -> bool:
    weight = array_of(value.args[1])
    return (
        not is_call(value, "relax.matmul")
        and weight is not None
        and weight.shape[1] == 1
        and int(value.attrs.groups) > 1
    )


def _record(
    layer: Layer, graph: Channels, values: Mapping[relax.Var, relax.Expr], methods: Mapping[relax.Var, Prune | None],
    gone: set[int], reasons: Mapping[int, str], pruned: Pruned,
) -> None:  # fmt: skip
    """What a layer has lost; or, where the recipe would have had it smaller, why it has not."""
    value, method = values.get(layer.var), methods.get(layer.var)
    if method is None or method.pattern != "structured":
        return
    if value is None or not reads_weight(value):
        pruned.leave(layer, "only products and convolutions with constant weights have channels to take away")
        return
    outputs = graph.roots(_outputs(graph, layer.var, values))
    read = graph.of(value.args[0])[_axis(value)]
    inputs = graph.roots(read) if read is not None else np.zeros(0, np.int64)
    lost = [int(np.isin(roots, list(gone)).sum()) for roots in (outputs, inputs)]
    if not any(lost):
        root = int(outputs[0])
        pruned.leave(
            layer, graph.fixed.get(root) or reasons.get(root, "the least of its channels matter more than others'")
        )
        return
    weight = array_of(value.args[1])
    assert weight is not None
    groups = 1 if is_call(value, "relax.matmul") else int(value.attrs.groups)
    left = (weight.size // len(outputs)) * (len(outputs) - lost[0])
    if groups == 1 and lost[1]:
        left = left * (len(inputs) - lost[1]) // len(inputs)
    pruned.layers.append({
        "name": layer.name, "kind": layer.kind, "method": method.method, "pattern": "structured", "weights": int(weight.size),
        "zeros": int(weight.size - left), "outputs": [len(outputs) - lost[0], len(outputs)],
    })  # fmt: skip


# ---- what makes up for it


def _refits(
    mod: tvm.IRModule, graph: Channels, losing: Sequence[_Reader], methods: Mapping[relax.Var, Prune | None], gone: set[int],
    observer: Observer | None,
) -> dict[relax.Var, Refit]:  # fmt: skip
    """New weights (whole: the inputs that go are cut off later) and biases of the layers that lose inputs, where the method is sparsegpt."""
    by_var = {r.var: r for r in losing if (m := methods.get(r.var)) is not None and m.method == "sparsegpt"}
    if observer is None:
        return {}
    found = {}
    for var, moments in second_moments(mod, list(by_var), observer):
        heed()
        reader = by_var[var]
        kept = np.repeat(~np.isin(graph.roots(reader.labels), list(gone)), _places(reader))
        matrix, bias = refit(weight_as_matrix(reader.value)[0], moments, kept)
        found[var] = Refit(weight_from_matrix(reader.value, matrix[None].astype(np.float32)), bias.astype(np.float32))
    return found


def _places(reader: _Reader) -> int:
    return int(weight_as_matrix(reader.value).shape[2]) // len(reader.labels)


def refit(weight: Array, moments: Moments, kept: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """(weight [outputs, depth], bias [outputs]): least squares on the inputs `kept`; the weights of the others are zero."""
    mean = moments.totals[0] / moments.columns
    covariance = moments.sums[0] / moments.columns - np.outer(mean, mean)
    inner = covariance[np.ix_(kept, kept)]
    damped = inner + (_DAMPING * float(np.mean(np.diagonal(inner))) + 1e-30) * np.eye(len(inner))
    found = np.zeros(weight.shape, np.float64)
    lost = weight[:, ~kept].astype(np.float64) @ covariance[np.ix_(~kept, kept)]
    found[:, kept] = weight[:, kept] + np.linalg.solve(damped, lost.T).T
    return found, (weight.astype(np.float64) - found) @ mean
