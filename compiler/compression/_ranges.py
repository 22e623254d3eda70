"""From the numbers of an activation to the range that 8 bits cover, over any count of samples in a fixed amount of memory.

What is kept of them is their least and greatest and how many there are of each 16 upper bits of a float32 (a bfloat16, cut off): bins
of a relative width of 1/128, the same for every order of the samples, which an outlier makes no coarser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["HEADROOM", "Numbers", "Range", "find_range"]

Range = tuple[float, float]  # the least and the greatest value
Array = npt.NDArray[np.float64]

# Ranges with all numbers: how much wider.
HEADROOM = {"minmax": 1.0, "minmax + 15 %": 1.15, "minmax + 30 %": 1.3, "minmax + 60 %": 1.6}

_OUTLIERS = 1e-4  # the share of numbers that percentile leaves out, both sides together
_SHRINKS = np.exp2(-np.arange(0, 49) / 8)  # of a range: by steps of an eighth of an octave, down to a 64th
_BINS, _LEVELS = 2048, 128  # of entropy: of the histogram, and what they are quantized to


@dataclass
class Numbers:
    """All numbers of one activation so far."""

    low: float = np.inf
    high: float = -np.inf

    def __post_init__(self) -> None:
        self._counts = np.zeros(1 << 16, np.int64)

    def add(self, x: npt.NDArray[np.float32], times: int = 1) -> Range:
        """Those of a run, each so many times. Returns the least and the greatest of them; where they are not finite, what is kept is of no use any more."""
        if not x.size:
            return 0.0, 0.0
        low, high = float(x.min()), float(x.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._counts += np.bincount(np.ravel(x).view(np.uint32) >> 16, minlength=1 << 16) * times
        return low, high

    @staticmethod
    def joined(parts: Sequence[Numbers]) -> Numbers:
        """Those of all parts."""
        found = Numbers(min(part.low for part in parts), max(part.high for part in parts))
        for part in parts:
            found._counts += part._counts
        return found

    def bins(self) -> tuple[Array, Array, Array]:
        """Lower and upper ends, ascending, and counts of the bins that hold any; a bin of zeros has no width."""
        codes = np.flatnonzero(self._counts)
        near = (codes << 16).astype(np.uint32).view(np.float32).astype(np.float64)  # the end at 0
        far = ((codes << 16) | 0xFFFF).astype(np.uint32).view(np.float32).astype(np.float64)
        far[codes & 0x7FFF == 0] = 0.0
        lower, upper = np.minimum(near, far), np.maximum(near, far)
        order = np.argsort(lower, kind="stable")
        return lower[order], upper[order], self._counts[codes][order].astype(np.float64)


def find_range(numbers: Numbers, method: str, levels: int) -> Range:
    """The range that takes in 0, for `levels` steps.

    minmax: all of it, or with room for what other inputs may have. percentile: but for a ten-thousandth of the numbers. mse: the one of the least expected squared error, of
    rounding within and of clipping without. entropy: the one whose quantized distribution differs least from the real one (S. Migacz,
    "8-bit Inference with TensorRT", 2017).
    """
    whole = min(numbers.low, 0.0), max(numbers.high, 0.0)
    if method in HEADROOM or whole == (0.0, 0.0):
        more = HEADROOM.get(method, 1.0)
        return whole[0] * more, whole[1] * more
    return {"percentile": _percentile, "mse": _mse, "entropy": _entropy}[method](numbers, whole, levels)


def _percentile(numbers: Numbers, whole: Range, levels: int) -> Range:
    lower, upper, counts = numbers.bins()
    left = np.cumsum(counts) / counts.sum()
    # Numbers of one sign (behind a ReLU) have one tail.
    tails = int(lower[0] < 0) + int(upper[-1] > 0)
    out = _OUTLIERS / tails
    low = lower[np.searchsorted(left, out, side="right")] if lower[0] < 0 else 0.0
    high = upper[np.searchsorted(left, 1 - out, side="left")] if upper[-1] > 0 else 0.0
    return max(whole[0], min(low, 0.0)), min(whole[1], max(high, 0.0))


def _mse(numbers: Numbers, whole: Range, levels: int) -> Range:
    lower, upper, counts = numbers.bins()
    middle = (lower + upper) / 2

    def error(low: float, high: float) -> float:
        step = (high - low) / levels
        outside = middle - np.clip(middle, low, high)
        rounding = np.minimum(middle**2, step**2 / 12)  # what is much less than a step becomes 0
        return float((counts * np.where(outside == 0, rounding, outside**2 + step**2 / 12)).sum())

    return _least(whole, error)


def _least(whole: Range, error: Callable[[float, float], float]) -> Range:
    """Both ends are moved in, one after the other, until neither gains."""
    low, high = whole
    best = error(low, high)
    while True:
        before = best
        for candidate in whole[1] * _SHRINKS if whole[1] > 0 else []:
            if candidate - low > 0 and (found := error(low, float(candidate))) < best:
                best, high = found, float(candidate)
        for candidate in whole[0] * _SHRINKS if whole[0] < 0 else []:
            if high - candidate > 0 and (found := error(float(candidate), high)) < best:
                best, low = found, float(candidate)
        if best >= before:
            return low, high


def _entropy(numbers: Numbers, whole: Range, levels: int) -> Range:
    lower, upper, counts = numbers.bins()
    top = max(-whole[0], whole[1])
    # Magnitudes in bins of one width: within a bin of ours numbers are spread evenly.
    edges = np.linspace(0.0, top, _BINS + 1)
    histogram = np.zeros(_BINS)
    for sign in (1.0, -1.0):
        keep = (upper > 0) if sign > 0 else (lower < 0)
        near, far = (lower, upper) if sign > 0 else (-upper[::-1], -lower[::-1])
        kept = keep if sign > 0 else keep[::-1]
        mass = counts if sign > 0 else counts[::-1]
        near, far, mass = np.maximum(near[kept], 0.0), far[kept], mass[kept]
        points = np.concatenate([[0.0], np.column_stack([near, far]).ravel()])
        below = np.concatenate([[0.0], np.column_stack([np.cumsum(mass) - mass, np.cumsum(mass)]).ravel()])
        histogram += np.diff(np.interp(edges, points, below))
    best, threshold = np.inf, top
    for kept_bins in range(_LEVELS, _BINS + 1, 4):
        found = _divergence(histogram, kept_bins)
        if found < best:
            best, threshold = found, float(edges[kept_bins])
    return max(whole[0], -threshold), min(whole[1], threshold)


def _divergence(histogram: Array, kept: int) -> float:
    """Kullback-Leibler, of the first bins, with all that lies beyond in the last of them, and of what as many levels make of these bins."""
    inside = histogram[:kept]
    p = inside.copy()
    p[-1] += histogram[kept:].sum()
    level = np.arange(kept) * _LEVELS // kept
    filled = inside > 0
    sums = np.bincount(level, inside, _LEVELS)
    shares = np.bincount(level, filled, _LEVELS)
    q = np.where(filled, (sums / np.maximum(shares, 1))[level], 0.0)
    if q.sum() == 0:
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    q = np.where((q == 0) & (p > 0), 1e-12, q)
    both = p > 0
    return float((p[both] * np.log(p[both] / q[both])).sum())
