"""The recipe Prune: which layers it is for, and their weights with zeros in its pattern, in constants of the same shape.

Magnitude: the least |w|. Wanda: the least |w| ||x|| in each output, x being all that the weight is multiplied with (M. Sun, Z. Liu,
A. Bair, J. Z. Kolter, "A Simple and Effective Pruning Approach for Large Language Models", 2023). SparseGPT: `_sparsegpt.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from maas_rt._errors import CompileError

from .._deep import heed
from .._recipes import Prune, Recipe, needs_data
from ..passes._ops import constant, dtype_of
from ..passes._rewrite import Rewriter, array_of, is_call, rewrite
from ._layers import NESTED, Layer
from ._masks import Pattern, least
from ._moments import Moments, second_moments, square_sums, weight_as_matrix, weight_from_matrix
from ._observe import Observer
from ._reach import first_and_last
from ._sparsegpt import sparsegpt

__all__ = ["Pruned", "method_of", "prunable", "prune"]

Array = npt.NDArray[Any]

_CONVOLUTIONS = tuple(f"relax.nn.conv{n}d" for n in (1, 2, 3))


@dataclass
class Pruned:
    """What was pruned, and of every layer that was not, why."""

    layers: list[dict[str, Any]] = field(default_factory=list)
    dense: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_manifest(self, recipe: Recipe, samples: int) -> dict[str, Any]:
        """The recipe without its data, and each layer's exact number of zeros."""
        first = recipe.prunings[0]
        return {
            "version": first.version, "sparsity": first.sparsity, "pattern": first.pattern, "method": first.method,
            "calibration_inputs": samples, "layers": self.layers, "dense_layers": self.dense, "notes": self.notes,
        }  # fmt: skip

    @property
    def reasons(self) -> dict[str, tuple[str, str]]:
        """Kind and reason by layer, of those that were left dense."""
        return {each["name"]: (each["kind"], each["reason"]) for each in self.dense}

    def leave(self, layer: Layer, reason: str) -> None:
        self.dense.append({"name": layer.name, "kind": layer.kind, "reason": reason})


@dataclass
class _Weight:
    """A constant and the layers that share it."""

    layers: list[Layer]
    value: relax.Call  # of the first
    method: Prune
    pattern: Pattern

    @property
    def vars(self) -> list[relax.Var]:
        return [layer.var for layer in self.layers]


def prune(
    mod: tvm.IRModule, found: Sequence[Layer], recipe: Recipe, on_eight_bits: Collection[str],
    observer: Observer | None, pruned: Pruned,
) -> tvm.IRModule:  # fmt: skip
    """`mod` with pruned weights; what is to be said of it goes to `pruned`. `found`: its layers; `on_eight_bits`: names of those that are to be on 8 bits behind;
    `observer`: None where all are pruned by magnitude.

    Raises:
        CompileError: a layer reads what is not finite. As Observer.observe.
    """
    weights = _weights(mod, found, recipe, on_eight_bits, pruned)
    constants: dict[relax.Var, relax.Expr] = {}
    for weight, moments in _with_moments(mod, weights, observer):
        heed()
        matrix = _pruned_matrix(weight, moments, pruned.notes)
        array = weight_from_matrix(weight.value, matrix.astype(np.float32))
        made = constant(array)
        constants.update((var, made) for var in weight.vars)
        zeros = int(array.size - np.count_nonzero(array))
        pruned.layers += [_record(layer, weight, int(array.size), zeros) for layer in weight.layers]
    order = {layer.name: i for i, layer in enumerate(found)}
    pruned.layers.sort(key=lambda record: order[record["name"]])
    return _with_weights(mod, constants)


def prunable(mod: tvm.IRModule, found: Sequence[Layer]) -> list[str]:
    """The layers that a recipe prunes without naming them."""
    weights = _weights(mod, found, Recipe(prune=Prune(method="magnitude")), (), Pruned())
    return [layer.name for weight in weights for layer in weight.layers]


def _record(layer: Layer, weight: _Weight, size: int, zeros: int) -> dict[str, Any]:
    return {
        "name": layer.name, "kind": layer.kind, "method": weight.method.method, "pattern": str(weight.pattern),
        "weights": size, "zeros": zeros,
    }  # fmt: skip


def _with_weights(mod: tvm.IRModule, constants: dict[relax.Var, relax.Expr]) -> tvm.IRModule:
    def rule(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in constants:
            return None
        return tvm.ir.Call(value.op, [value.args[0], constants[var]], value.attrs, list(value.ty_args), value.span)

    return rewrite(mod, rule)


# ---- which layers


def _weights(
    mod: tvm.IRModule, found: Sequence[Layer], recipe: Recipe, on_eight_bits: Collection[str], pruned: Pruned
) -> list[_Weight]:
    """The weights to be pruned, each once; of the layers that are left dense the reasons go to `pruned`."""
    edges = first_and_last(mod, [layer.var for layer in found])
    shared: dict[Any, _Weight] = {}
    for layer in found:
        method, named = method_of(layer, recipe)
        value = layer.value
        if method is not None and method.pattern in ("structured", "low_rank"):
            continue  # done before
        edge = "" if named else edges.get(layer.var, "")
        pattern = _pattern(method, layer.name in on_eight_bits)
        reason = _reason(layer, method, pattern, named) or edge
        if reason:
            pruned.leave(layer, reason)
            continue
        assert method is not None
        array = array_of(value.args[1])
        assert array is not None
        key = (str(value.op.name), array.shape, sha256(array.tobytes()).digest(), id(method), pattern)
        if key in shared:
            shared[key].layers.append(layer)
        else:
            shared[key] = _Weight([layer], value, method, pattern)
    return list(shared.values())


def method_of(layer: Layer, recipe: Recipe) -> tuple[Prune | None, bool]:
    """What a layer has, and whether a pattern names it."""
    for pattern, method in recipe.prune_layers.items():
        if fnmatchcase(layer.name, pattern):
            return method, True
    return recipe.prune, False


def _pattern(method: Prune | None, on_eight_bits: bool) -> Pattern:
    if method is None or method.pattern == "unstructured":
        return Pattern()
    if method.kept_of is not None:
        return Pattern(kept=method.kept_of[0], of=method.kept_of[1])
    return Pattern(4, 4) if on_eight_bits else Pattern(4, 1)


def _reason(layer: Layer, method: Prune | None, pattern: Pattern, named: bool) -> str:
    """Why a layer stays dense; "" if it need not."""
    value = layer.value
    if method is None or not method.sparsity:
        return "the recipe leaves it dense"
    if layer.nested and needs_data(method):
        return NESTED
    if not is_call(value, "relax.matmul", *_CONVOLUTIONS):
        return "only products and convolutions are pruned"
    weight = array_of(value.args[1])
    if weight is None or array_of(value.args[0]) is not None:
        return "its weights are a run's" if weight is None else "both of its operands are constants"
    if {dtype_of(value), *map(dtype_of, value.args)} != {"float32"}:
        return "its numbers are not all float32"
    if weight.size == 0 or not np.isfinite(weight).all():
        return "its weights are not finite numbers"
    if is_call(value, "relax.matmul"):
        if weight.ndim != 2 or value.args[0].ty.ndim < 2:
            return "it is no product with one matrix"
    elif str(value.attrs.data_layout)[:2] != "NC" or str(value.attrs.kernel_layout)[:2] != "OI":
        return "its layout is another than NCHW"
    elif weight.shape[1] == 1 and int(value.attrs.groups) > 1 and not named:
        return "it is depthwise: few weights, and no kernel gains by their zeros"
    if pattern.of and _inputs(value) % pattern.of:
        return f"its {_inputs(value)} inputs are no multiple of {pattern.of}"
    return ""


def _inputs(value: relax.Call) -> int:
    """Input channels of one group."""
    weight = array_of(value.args[1])
    assert weight is not None
    return int(weight.shape[0 if is_call(value, "relax.matmul") else 1])


# ---- which weights


def _with_moments(
    mod: tvm.IRModule, weights: Sequence[_Weight], observer: Observer | None
) -> Iterator[tuple[_Weight, Moments | None]]:
    """Each weight with what its method wants to know of the data: of layers that share it the sum."""
    by_method = {name: [w for w in weights if w.method.method == name] for name in ("magnitude", "wanda", "sparsegpt")}
    for weight in by_method["magnitude"]:
        yield weight, None
    if observer is None:
        return
    squares = square_sums(mod, [var for weight in by_method["wanda"] for var in weight.vars], observer)
    yield from _summed(by_method["wanda"], iter(squares.items()))
    chosen = [var for weight in by_method["sparsegpt"] for var in weight.vars]
    yield from _summed(by_method["sparsegpt"], second_moments(mod, chosen, observer))


def _summed(
    weights: Sequence[_Weight], found: Iterator[tuple[relax.Var, Moments]]
) -> Iterator[tuple[_Weight, Moments]]:
    """`found` comes in the order of the weights and their layers."""
    for weight in weights:
        _, total = next(found)
        for _ in weight.vars[1:]:
            _, other = next(found)
            total = total + other
        if not np.isfinite(total.sums).all():
            raise CompileError(
                f"layer {weight.layers[0].name} reads numbers that are not finite, or whose squares are not, in a calibration sample: "
                "leave such samples out, or prune by magnitude"
            )
        yield weight, total


def _pruned_matrix(weight: _Weight, moments: Moments | None, notes: list[str]) -> Array:
    """[groups, outputs, depth]; what is sparse enough already stays as it is."""
    matrix, method = weight_as_matrix(weight.value), weight.method
    if np.mean(matrix == 0) >= method.sparsity and not weight.pattern.of:
        return matrix
    if moments is not None and method.method == "sparsegpt" and moments.columns < matrix.shape[2]:
        notes.append(
            f"layer {weight.layers[0].name} saw {moments.columns} columns of {matrix.shape[2]} inputs: SparseGPT wants several times more "
            "columns than inputs, so calibrate on more samples"
        )
    order = _by_place(weight.value)
    result = np.empty(matrix.shape, np.float64)
    for group, rows in enumerate(matrix):
        sums = None if moments is None else moments.sums[group][..., order]
        result[group][:, order] = _pruned_rows(rows[:, order], sums, order, weight, notes)
    return result


def _by_place(value: relax.Call) -> Array:
    """The columns of a weight's matrix so that neighbours are input channels at one place of the kernel."""
    weight = array_of(value.args[1])
    assert weight is not None
    if is_call(value, "relax.matmul"):
        return np.arange(weight.shape[0])
    return np.ravel(np.arange(weight[0].size).reshape(weight.shape[1], -1).T)


def _pruned_rows(rows: Array, sums: Array | None, order: Array, weight: _Weight, notes: list[str]) -> Array:
    method, pattern = weight.method, weight.pattern
    if sums is None:
        return np.where(least(np.abs(rows), pattern, method.sparsity), 0, rows)
    if method.method == "wanda":
        scores = np.abs(rows) * np.sqrt(sums)
        return np.where(least(scores, pattern, method.sparsity, by_row=True), 0, rows)
    found, damping = sparsegpt(rows, sums[order], pattern, method.sparsity)
    if damping > 0.01:
        notes.append(f"layer {weight.layers[0].name}'s inputs say little of each other's part: damped by {damping:g}")
    return found
