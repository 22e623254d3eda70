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


def _long_axes(array: np.ndarray) -> tuple[int, ...]:
    return tuple(extent for extent in array.shape if extent != 1)
