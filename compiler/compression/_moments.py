"""Second moments of what layers read, from runs in float: what GPTQ, SparseGPT, Wanda and least squares want to know of the data.

A layer is seen as products of weights [groups, outputs, depth] with columns [groups, depth] of its input: the rows of a matrix product,
the patches (im2col) of a convolution, in the order of its weights: input channels, then the places of the kernel. Sums over the columns
are made inside of the observed model, in float32 by sample and in float64 over all of them, so that memory does not grow with the samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from ..passes._dims import extents
from ..passes._ops import constant
from ..passes._rewrite import array_of, is_call
from ._observe import Observer

__all__ = [
    "LEAST_DAMPING",
    "Moments",
    "depth_of",
    "inverse_factor",
    "note_of_few",
    "second_moments",
    "square_sums",
    "weight_as_matrix",
    "weight_from_matrix",
]

Array = npt.NDArray[Any]

LEAST_DAMPING = 0.01  # of the moments' mean diagonal, as GPTQ and SparseGPT have it
_MOST_DAMPING = 1e6  # with so much of it nothing is left of finite moments that could stand in the way
_LEAST_MOST = 256 << 20  # bytes of moments that one pass over the samples may gather


@dataclass
class Moments:
    """Of one layer's input, float64: `sums`, X X^T [groups, depth, depth] or its diagonal [groups, depth]; `totals` and `magnitudes`
    [groups, depth], the sums of X and of |X|; over `columns` columns X in all."""

    sums: Array
    totals: Array
    magnitudes: Array
    columns: int

    def scaled(self, channels: npt.NDArray[np.float64]) -> Moments:
        """Of the columns with their numbers multiplied by `channels` [depth], which are above 0."""
        is_diagonal = self.sums.ndim == self.totals.ndim
        squares = channels**2 if is_diagonal else np.outer(channels, channels)
        return Moments(self.sums * squares, self.totals * channels, self.magnitudes * channels, self.columns)

    def __add__(self, other: Moments) -> Moments:
        """Of the columns of both."""
        return Moments(
            self.sums + other.sums, self.totals + other.totals, self.magnitudes + other.magnitudes, self.columns + other.columns
        )  # fmt: skip


def weight_as_matrix(value: relax.Call, weight: Array | None = None) -> Array:
    """The constant weight of a product or convolution, or `weight` in its place, as [groups, outputs of a group, depth]."""
    weight = array_of(value.args[1]) if weight is None else weight
    assert weight is not None
    if is_call(value, "relax.matmul"):
        return np.expand_dims(weight.T, 0)
    groups = int(value.attrs.groups)
    return np.reshape(weight, (groups, weight.shape[0] // groups, -1))


def weight_from_matrix(value: relax.Call, matrix: Array) -> Array:
    """The inverse of `weight_as_matrix`; the number of outputs may be another."""
    if is_call(value, "relax.matmul"):
        return np.ascontiguousarray(matrix[0].T)
    weight = array_of(value.args[1])
    assert weight is not None
    return np.ascontiguousarray(matrix.reshape(-1, *weight.shape[1:]))


def depth_of(value: relax.Call) -> tuple[int, int]:
    """(groups, depth) of `weight_as_matrix`."""
    groups, _, depth = weight_as_matrix(value).shape
    return groups, depth


def note_of_few(method: str, seen: Sequence[tuple[str, int, int]]) -> list[str]:
    """What is to be said of layers (name, columns, depth) with fewer columns than depth, of which `method` knows too little."""
    few = [each for each in seen if each[1] < each[2]]
    if not few:
        return []
    name, columns, depth = max(few, key=lambda each: each[2] / max(each[1], 1))
    return [
        f"layers of which {method} sees fewer rows of calibration data than they have inputs: {len(few)}, most of all {name} ({columns} rows, "
        f"{depth} inputs); what it makes of the others is a guess: give more samples"
    ]


def second_moments(
    mod: tvm.IRModule, chosen: Sequence[relax.Var], observer: Observer
) -> Iterator[tuple[relax.Var, Moments]]:
    """X X^T of the layers `chosen`, which are products or convolutions with constant weights; of products that read the same it is gathered
    once. What bounds memory runs the samples several times.

    Raises as Observer.observe does.
    """
    values = _values(mod, chosen)
    readers: dict[relax.Expr, list[relax.Var]] = {}
    for var, value in values.items():
        readers.setdefault(value.args[0] if is_call(value, "relax.matmul") else var, []).append(var)
    first = {same[0]: same for same in readers.values()}
    for some in _by_memory({var: values[var] for var in first}, _most_bytes(values)):
        for var, moments in _observed(mod, {var: values[var] for var in some}, observer, _products).items():
            for reader in first[var]:
                yield reader, moments


def square_sums(mod: tvm.IRModule, chosen: Sequence[relax.Var], observer: Observer) -> dict[relax.Var, Moments]:
    """As `second_moments`, the diagonals alone."""
    return _observed(mod, _values(mod, chosen), observer, lambda x: relax.op.sum(relax.op.square(x), axis=[0, 3]))


def _values(mod: tvm.IRModule, chosen: Sequence[relax.Var]) -> dict[relax.Var, relax.Call]:
    of = {binding.var: binding.value for block in mod["main"].body.blocks for binding in block.bindings}
    return {var: of[var] for var in chosen}


def _most_bytes(values: dict[relax.Var, relax.Call]) -> int:
    """Of moments that one pass gathers: as many as the layers' weights have, where these are large, for a pass over a large model is dear."""
    return max(_LEAST_MOST, 4 * sum(weight_as_matrix(value).size for value in values.values()))


def _by_memory(values: dict[relax.Var, relax.Call], most: int) -> Iterator[list[relax.Var]]:
    some: list[relax.Var] = []
    held = 0
    for var, value in values.items():
        groups, depth = depth_of(value)
        size = groups * depth * depth * 8
        if some and held + size > most:
            yield some
            some, held = [], 0
        some.append(var)
        held += size
    if some:
        yield some


def _products(x: relax.Expr) -> relax.Expr:
    return relax.op.sum(relax.op.matmul(x, relax.op.permute_dims(x, [0, 1, 3, 2])), axis=[0])


def _observed(
    mod: tvm.IRModule, values: dict[relax.Var, relax.Call], observer: Observer, reduce: Any
) -> dict[relax.Var, Moments]:
    if not values:
        return {}
    found: dict[relax.Var, Moments] = {}

    def probe(var: relax.Expr) -> list[relax.Expr]:
        x = _columns(var, values[var])
        one = relax.op.strided_slice(x, [1, 2], [0, 0], [1, 1])
        totals = [relax.op.sum(each, axis=[0, 3]) for each in (x, relax.op.abs(x))]
        return [reduce(x), *totals, relax.op.sum(relax.op.ones_like(one))]

    def take(sample: int, results: list[list[Array]]) -> None:
        for var, (*sums, columns) in zip(values, results):
            products, totals, magnitudes = (each.astype(np.float64) for each in sums)
            seen = Moments(products, totals, magnitudes, int(columns))
            found[var] = found[var] + seen if var in found else seen

    observer.observe(mod, list(values), probe, take)
    return found


def _columns(var: relax.Expr, value: relax.Call) -> relax.Expr:
    """[batch, groups, depth, columns] of what a layer with the result `var` reads."""
    groups, depth = depth_of(value)
    if is_call(value, "relax.matmul"):
        rows = math.prod(extents(value.args[0])[:-1])
        return relax.op.reshape(
            relax.op.permute_dims(relax.op.reshape(value.args[0], [rows, depth]), [1, 0]), [1, 1, depth, rows]
        )
    batch, _, *space = extents(var)
    return relax.op.reshape(_patches(value), [batch, groups, depth, math.prod(space)])


def _patches(value: relax.Call) -> relax.Expr:
    """[batch, groups * depth, ...]: a convolution of each channel by itself with one filter of a single 1 for each place of the kernel."""
    x, attrs = value.args[0], value.attrs
    weight = array_of(value.args[1])
    assert weight is not None
    kernel = weight.shape[2:]
    places = int(np.prod(kernel))
    if places == 1 and all(int(s) == 1 for s in attrs.strides) and not any(int(p) for p in attrs.padding):
        return x
    channels = int(attrs.groups) * weight.shape[1]
    filters = np.tile(
        np.eye(places, dtype=np.float32).reshape(places, 1, *kernel), (channels, *[1] * (len(kernel) + 1))
    )
    convolution = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}[len(kernel)]
    return convolution(
        x, constant(filters), attrs.strides, attrs.padding, attrs.dilation, channels, attrs.data_layout, attrs.kernel_layout
    )  # fmt: skip


def inverse_factor(moments: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
    """U, upper triangular, with U^T U = (moments + damping)^-1, and the damping, a share of the mean diagonal, raised tenfold until there is
    such a factor.

    Raises numpy.linalg.LinAlgError where there is none whatever the damping: moments that are not finite, or 0 all over.
    """
    mean = float(np.diag(moments).mean())
    damping = LEAST_DAMPING
    while damping <= _MOST_DAMPING:
        damped = moments + damping * mean * np.eye(len(moments))
        try:
            # The moments backwards are L L^T, so that they are R R^T for an upper R: U is its inverse, without the inverse of them.
            backwards = np.linalg.cholesky(damped[::-1, ::-1])
            upper = np.triu(np.linalg.inv(backwards[::-1, ::-1]))
            if np.isfinite(upper).all():
                return upper, damping
        except np.linalg.LinAlgError:
            pass
        damping *= 10
    raise np.linalg.LinAlgError("the moments have no inverse")
