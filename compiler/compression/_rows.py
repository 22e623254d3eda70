"""Rows of what a layer reads: a bounded sample of them over any count of inputs, and the layer as the matrix that they are multiplied by.

With them a quantized layer's error is measured in numpy, without a build for each thing that is tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from ..passes._rewrite import is_call
from ._moments import weight_as_matrix

__all__ = ["Matrix", "Rows", "Window", "channels_of", "matrix_from", "matrix_of", "window_of"]

Array = npt.NDArray[np.float32]

_NUMBERS = 1 << 18  # of all rows of a layer and a half of the samples, about: 1 MiB
_LEAST, _MOST = 32, 256  # rows


@dataclass(frozen=True)
class Window:
    """What one result of a convolution sees: extents, strides, padding (before, after) and dilations by spatial axis. A product's rows are
    seen whole: no axes."""

    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()

    @property
    def is_product(self) -> bool:
        return not self.kernel

    def results(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Extents of the results of an activation [N, C, spatial...]: [N, spatial...]; of a product's [..., K]: [...]."""
        if self.is_product:
            return tuple(shape[:-1])
        extents = [
            (n + a + b - (k - 1) * d - 1) // s + 1
            for n, k, s, a, b, d in zip(shape[2:], self.kernel, self.strides, self.before, self.after, self.dilations)
        ]
        return (shape[0], *extents)

    def rows(self, x: Array, places: npt.NDArray[np.int64]) -> Array:
        """float32 [len(places), C, taps]: what the results at these places, counted in C order, see of `x`."""
        if self.is_product:
            return x.reshape(-1, x.shape[-1])[places][:, :, None]
        batch, *at = np.unravel_index(places, self.results(x.shape))
        axes = len(self.kernel)
        index, inside = [batch.reshape([-1] + [1] * axes)], np.ones((len(places), *self.kernel), bool)
        for axis in range(axes):
            spread = [len(places)] + [1] * axes
            spread[1 + axis] = self.kernel[axis]
            taps = np.arange(self.kernel[axis]) * self.dilations[axis] - self.before[axis]
            positions = (at[axis][:, None] * self.strides[axis] + taps).reshape(spread)
            inside &= (positions >= 0) & (positions < x.shape[2 + axis])
            index.append(np.clip(positions, 0, x.shape[2 + axis] - 1))
        seen = np.moveaxis(x, 1, -1)[tuple(index)]
        seen = np.where(inside[..., None], seen, np.float32(0))
        return np.ascontiguousarray(np.moveaxis(seen.reshape(len(places), -1, x.shape[1]), 2, 1))


def window_of(layer: relax.Call) -> Window:
    """Of a convolution [N, C, spatial...] or a product."""
    if is_call(layer, "relax.matmul"):
        return Window()
    attrs, axes = layer.attrs, layer.args[1].ty.ndim - 2
    kernel = tuple(int(d) for d in layer.args[1].ty.shape.values[2:])
    pads = [int(p) for p in attrs.padding]
    strides, dilations = (tuple(int(v) for v in of) for of in (attrs.strides, attrs.dilation))
    return Window(kernel, strides, tuple(pads[:axes]), tuple(pads[axes:]), dilations)


def channels_of(layer: relax.Call) -> int:
    """How many channels the layer reads."""
    shape = [int(d) for d in layer.args[1].ty.shape.values]
    return shape[0] if is_call(layer, "relax.matmul") else shape[1] * int(layer.attrs.groups)


class Rows:
    """A uniform sample of all rows of all inputs, the same for every run: each row draws a number, and those of the least are kept.

    Thinning as a reservoir does (J. Vitter, 1985), by ranks, so that what is kept does not hang on how rows are spread over inputs.
    """

    def __init__(self, window: Window, channels: int) -> None:
        self.window = window
        self.seen = 0  # rows in all
        length = channels * math.prod(window.kernel)
        self._limit = min(max(_NUMBERS // max(length, 1), _LEAST), _MOST)
        self._ranks = np.zeros(0)
        self._kept = np.zeros((0, channels, math.prod(window.kernel)), np.float32)

    def add(self, sample: int, x: Array) -> None:
        """Those of an activation of the input of this number."""
        count = math.prod(self.window.results(x.shape))
        ranks = np.random.default_rng([sample, count]).random(count)
        self.seen += count
        bound = self._ranks[-1] if len(self._ranks) == self._limit else np.inf
        places = np.flatnonzero(ranks < bound)
        if len(places) > self._limit:
            places = np.sort(places[np.argpartition(ranks[places], self._limit - 1)[: self._limit]])
        if not len(places):
            return
        every = np.concatenate([self._ranks, ranks[places]])
        order = np.argsort(every, kind="stable")[: self._limit]
        self._ranks = every[order]
        self._kept = np.concatenate([self._kept, self.window.rows(x, places)])[order]

    def array(self) -> Array:
        """float32 [rows, C, taps]."""
        return self._kept


@dataclass(frozen=True)
class Matrix:
    """A layer as products of groups: float32 [groups, depth, outputs of a group], depth being channels of a group and their taps."""

    weight: Array
    taps: int

    @property
    def groups(self) -> int:
        return len(self.weight)

    def operand(self, rows: Array) -> Array:
        """Rows [n, C, taps] as what the weights are multiplied by, [groups, n, depth]."""
        return np.ascontiguousarray(rows.reshape(len(rows), self.groups, -1).transpose(1, 0, 2))

    def spread(self, channels: npt.NDArray[np.float64]) -> Array:
        """A number for each channel as one for each place of depth, [groups, depth, 1]."""
        return np.repeat(channels.astype(np.float32), self.taps).reshape(self.groups, -1, 1)

    def largest(self) -> Array:
        """The largest weight of each channel, [C]."""
        return np.asarray(np.abs(self.weight).max(axis=2).reshape(-1, self.taps).max(axis=1))


def matrix_of(layer: relax.Call) -> Matrix:
    """Of a layer with constant weights."""
    return Matrix(matrix_from(layer, None), math.prod(window_of(layer).kernel))


def matrix_from(layer: relax.Call, weight: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """[groups, depth, outputs of a group] of the layer's weight, or of one in its place."""
    return np.ascontiguousarray(weight_as_matrix(layer, weight).transpose(0, 2, 1))
