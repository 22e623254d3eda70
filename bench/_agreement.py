"""Whether a peer computed the model: its outputs against eager torch's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def relative_error(folder: Path, peer: str) -> float:
    """Largest error of a peer's outputs against eager torch, relative to the output's scale; infinite where they do not correspond."""
    with np.load(folder / "expected.npz") as expected, np.load(folder / f"outputs.{peer}.npz") as got:
        return largest_error([expected[k] for k in expected.files], [got[k] for k in got.files])


def largest_error(expected: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """The same of arrays. A peer may drop or add axes of 1; a value that is not finite on one side alone is an infinite error."""
    if len(expected) != len(got):
        return float("inf")
    return max(_error(a, b) for a, b in zip(expected, got))


def _error(expected: np.ndarray, got: np.ndarray) -> float:
    if _long_axes(expected) != _long_axes(got):
        return float("inf")
    got = got.reshape(expected.shape)
    if not np.isfinite(expected).all() or not np.isfinite(got).all():
        same = np.array_equal(expected, got, equal_nan=True)
        return 0.0 if same else float("inf")
    if expected.size == 0:
        return 0.0
    return float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-30))


def quantized_error(folder: Path, peer: str) -> float:
    """What quantization cost: the root of the mean square error of a peer's outputs against eager torch's in f32 (`scaled_rms`)."""
    with np.load(folder / "expected.npz") as expected, np.load(folder / f"outputs.{peer}.npz") as got:
        return scaled_rms([expected[k] for k in expected.files], [got[k] for k in got.files])


def scaled_rms(expected: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """Root mean square error over the root mean square of what was expected, of the worst output; infinite where they do not correspond
    or a value is not finite."""
    if [_long_axes(a) for a in expected] != [_long_axes(b) for b in got]:
        return float("inf")
    return max(
        float(np.sqrt(np.mean((b.reshape(a.shape) - a) ** 2)) / max(np.sqrt(np.mean(a**2)), 1e-30))
        if np.isfinite(b).all()
        else float("inf")
        for a, b in zip(expected, got, strict=True)
    )


def _long_axes(array: np.ndarray) -> tuple[int, ...]:
    return tuple(extent for extent in array.shape if extent != 1)
