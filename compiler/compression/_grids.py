"""Scales and zero points of weights in groups, and the integers that they leave.

Round to nearest ("rtn"): the last step is at the group's largest magnitude, or at the ends of its range (B. Jacob et al., "Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018, section 3). Scale search ("mse"): among scales around
that one, the one of the least squared error, as the reference implementation of GPTQ searches (E. Frantar et al., 2022). A symmetric scale
may be negative, so that the one level that has no opposite serves the largest magnitude, as in llama.cpp's q4_0. A scale that is stored in
float16 is rounded to it before the integers are found, so that these are chosen for what they will be multiplied by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["HALVES", "Blocks", "Grid", "blocks_of", "fitted_grid", "grouped", "in_float16", "stored"]

Array = npt.NDArray[Any]

_FACTORS = np.linspace(1.06, 0.4, 34)  # of the scale that takes in the whole group
_TINY = np.float32(np.finfo(np.float32).tiny)
HALVES = (
    float(np.finfo(np.float16).tiny),
    float(np.finfo(np.float16).max),
)  # magnitudes that float16 rounds by a 2048th at most


@dataclass(frozen=True)
class Grid:
    """The steps of groups: `(q - zero) * scale` for q of 0 to `levels`. `scale` and `zero`, a whole number, are float32, one a group."""

    scale: Array
    zero: Array
    levels: int

    @classmethod
    def empty(cls, x: Array, bits: int) -> Grid:
        """For groups x [..., group], without steps yet."""
        return cls(np.ones(x.shape[:-1], np.float32), np.zeros(x.shape[:-1], np.float32), (1 << bits) - 1)

    def quantize(self, x: Array) -> Array:
        """q, in float32, of numbers [..., group]."""
        steps: Array = np.rint(x / self.scale[..., None]) + self.zero[..., None]
        return np.clip(steps, 0, self.levels, out=steps)

    def dequantize(self, q: Array) -> Array:
        found: Array = (q - self.zero[..., None]) * self.scale[..., None]
        return found


@dataclass(frozen=True)
class Blocks:
    """Rows [rows, K] in integers, uint8 or int8; scales (float32) and zero points (of the integers' type) [rows, groups], one for each
    `block` numbers of a row, the last ones perhaps fewer."""

    values: Array
    scale: Array
    zero: Array
    block: int

    def floats(self) -> Array:
        """float32 [rows, K], rounded as kernels do."""
        which = np.arange(self.values.shape[1]) // self.block
        centred = self.values.astype(np.float32) - self.zero.astype(np.float32)[:, which]
        found: Array = centred * self.scale[:, which]
        return found


def fitted_grid(x: Array, bits: int, symmetric: bool, method: str, scales: str = "float32") -> Grid:
    """The steps for groups x [..., group], by the method "rtn" or "mse". `scales` of "float16" are rounded to it where its normal numbers
    reach; those of zeros alone are one of them."""
    levels, half = (1 << bits) - 1, scales == "float16"
    if symmetric:
        best = _symmetric(np.abs(x).max(-1) / (levels / 2), bits, half)
    else:
        best = _asymmetric(*_range(x), levels, half)
    if method == "rtn":
        return best
    error = _error(best, x)
    extreme = _extreme(x) / -(1 << (bits - 1)) if symmetric else None
    low, high = _range(x)
    for factor in _FACTORS:
        if extreme is not None:
            found = _symmetric(extreme * factor, bits, half)
        else:
            found = _asymmetric(low * factor, high * factor, levels, half)
        found_error = _error(found, x)
        better = found_error < error
        best = Grid(np.where(better, found.scale, best.scale), np.where(better, found.zero, best.zero), levels)
        error = np.where(better, found_error, error)
    return best


def blocks_of(
    rows: Array, bits: int, group: int | None, symmetric: bool, method: str, scales: str = "float32"
) -> Blocks:
    """Rows [rows, K] of float32 in groups of `group` numbers of a row; None: in one."""
    x = grouped(rows, group)
    grid = fitted_grid(x, bits, symmetric, method, scales)
    return stored(grid.quantize(x).reshape(len(rows), -1)[:, : rows.shape[1]], grid, x.shape[-1])


def grouped(rows: Array, group: int | None) -> Array:
    """[rows, groups, group]; the last group is filled up with zeros, which every grid holds exactly."""
    count, depth = rows.shape
    group = min(group or depth, depth)
    padded = np.pad(rows, [(0, 0), (0, -depth % group)]) if depth % group else rows
    return padded.reshape(count, -1, group)


def stored(q: Array, grid: Grid, block: int) -> Blocks:
    """Of numbers of the grid [rows, K]. 8 bits around their middle as int8, which need no zero points; else uint8."""
    middle = 128 if grid.levels == 255 and (grid.zero == 128).all() else 0
    dtype = np.int8 if middle else np.uint8
    return Blocks((q - middle).astype(dtype), grid.scale, (grid.zero - middle).astype(dtype), block)


def in_float16(scale: Array) -> Array:
    """float32 scales as float16 has them; those of 0 as the least of HALVES, and those beyond as they are."""
    least, most = HALVES
    scale = np.where(scale == 0, np.float32(least), scale)
    kept = (np.abs(scale) < least) | (np.abs(scale) > most)
    return np.where(kept, scale, np.where(kept, 1, scale).astype(np.float16).astype(np.float32))


def _symmetric(scale: Array, bits: int, half: bool) -> Grid:
    scale = scale.astype(np.float32)
    if half:
        scale = in_float16(scale)
    scale = np.where(np.abs(scale) < _TINY, _TINY, scale)
    return Grid(scale, np.full(scale.shape, 1 << (bits - 1), np.float32), (1 << bits) - 1)


def _asymmetric(low: Array, high: Array, levels: int, half: bool) -> Grid:
    scale = ((high - low) / levels).astype(np.float32)
    scale = np.maximum(in_float16(scale) if half else scale, _TINY)
    return Grid(scale, np.clip(np.rint(-low / scale), 0, levels).astype(np.float32), levels)


def _range(x: Array) -> tuple[Array, Array]:
    """Of each group, 0 included, which stays exact."""
    return np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)


def _extreme(x: Array) -> Array:
    """The number of the largest magnitude in each group."""
    at = np.abs(x).argmax(-1)[..., None]
    found: Array = np.take_along_axis(x, at, -1)[..., 0]
    return found


def _error(grid: Grid, x: Array) -> Array:
    """Squared, of each group."""
    difference = grid.dequantize(grid.quantize(x))
    difference -= x
    found: Array = np.einsum("...i,...i->...", difference, difference)
    return found
