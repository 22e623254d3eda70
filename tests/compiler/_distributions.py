"""Tests of distributions at a fixed seed, with thresholds that a wrong distribution exceeds (test_random_operators.py shows that they do)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

phi = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)))


def follows(values: Array, cdf: Callable[[Array], Array]) -> bool:
    """Kolmogorov and Smirnov's test of a continuous distribution, at a level of 0.1 %."""
    x = np.sort(values.astype(np.float64).reshape(-1))
    steps, expected = np.arange(x.size + 1) / x.size, cdf(x)
    distance = max((steps[1:] - expected).max(), (expected - steps[:-1]).max())
    return bool(distance < 1.95 / math.sqrt(x.size))


def occur(values: Array, chances: Sequence[float]) -> bool:
    """Pearson's test of whole numbers from 0 that have these chances, at a level of about 0.01 %; what has none must not occur."""
    counts, p = np.bincount(values.reshape(-1), minlength=len(chances)).astype(float), np.asarray(chances)
    if counts.size != p.size or counts[p == 0].any():
        return False
    want = counts.sum() * p[p > 0]
    statistic, free = ((counts[p > 0] - want) ** 2 / want).sum(), want.size - 1
    return bool(statistic < free * (1 - 2 / (9 * free) + 3.72 * math.sqrt(2 / (9 * free))) ** 3)


def unrelated(a: Array, b: Array) -> bool:
    """Whether the correlation of two samples is no more than chance makes it (4 standard deviations)."""
    return bool(abs(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1]) < 4 / math.sqrt(a.size))
