"""The numbers that 8 bits hold: of an activation over a range, of weights by their scales. What `_static` writes into the IR, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._ranges import Range

__all__ = ["Grid", "grid_of", "levels_of", "quantized_weights", "weight_scales"]

Array = npt.NDArray[np.float32]

_WEIGHT_LEVELS = 127


def levels_of(bits: int) -> int:
    """Steps of activations of 7 or 8 bits."""
    return 127 if bits == 7 else 255


@dataclass(frozen=True)
class Grid:
    """`step` apart, with 0 at `zero` of `levels`."""

    step: np.float32
    zero: int
    levels: int

    def rounded(self, x: Array) -> Array:
        """x as quantize and dequantize leave it."""
        q = np.rint(x / self.step)
        np.clip(q, -self.zero, self.levels - self.zero, out=q)
        q *= self.step
        return q


def grid_of(observed: Range, bits: int) -> Grid:
    """Zero (padding, a ReLU's floor) is always exact."""
    levels = levels_of(bits)
    low, high = min(observed[0], 0.0), max(observed[1], 0.0)
    step = np.float32((high - low) / levels) or np.float32(1.0)
    return Grid(step, int(np.clip(np.rint(-low / float(step)), 0, levels)), levels)


def weight_scales(weight: Array, axis: int | tuple[int, ...]) -> Array:
    """Scales of symmetric weights, with a 1 for each axis that they are found over; those of zeros are 1."""
    largest = np.abs(weight).max(axis=axis, keepdims=True)
    scales = np.where(largest > 0, largest / _WEIGHT_LEVELS, 1).astype(np.float32)
    return np.asarray(np.maximum(scales, np.finfo(np.float32).tiny))


def quantized_weights(weight: Array, scales: Array) -> npt.NDArray[np.int8]:
    """int8 weights; `scales` broadcast against them."""
    return np.asarray(np.clip(np.rint(weight / scales), -_WEIGHT_LEVELS, _WEIGHT_LEVELS), np.int8)
