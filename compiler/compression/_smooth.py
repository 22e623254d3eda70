"""Scales of an activation's channels that make both it and the weights that read it easier to quantize, where a layer's measured error falls.

SmoothQuant (G. Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2022): channel j is
divided by s_j = max|x_j|^alpha / max|w_j|^(1 - alpha). Cross-layer equalisation (M. Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", 2019): by s_j = sqrt(r1_j / r2_j), of the ranges of the weights that make channel j and of those that
read it. Which of them, or none, is measured site by site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ._grid import grid_of, levels_of
from ._ranges import Range
from ._sites import Half, Site

__all__ = ["WAYS", "Choice", "choose", "equalising", "smoothing"]

Array = npt.NDArray[np.float64]

ALPHAS = (0.3, 0.5, 0.65, 0.8, 0.9, 1.0)
_BOUND = (
    2.0**30
)  # of a scale, either way: no product with it leaves float32's normal numbers, unless that was near their ends


# A scale of channels: alpha of SmoothQuant, or equalisation; None: none.
Way = float | str | None
EQUALISATION = "equalisation"
WAYS: tuple[Way, ...] = (*ALPHAS, EQUALISATION)


@dataclass(frozen=True)
class Choice:
    """`factor`: what the channels are multiplied by, 1 / s; None: nothing. `way`: how. `span`, of the activation behind
    that, is found by `method`. Errors: relative squares, of what came first and of what was chosen."""

    factor: Array | None
    way: Way
    method: str
    span: Range
    before: float
    after: float


def smoothing(largest: Array, weights: Array, alpha: float) -> Array:
    """s of SmoothQuant, from the largest magnitudes of each channel and of the weights that read it."""
    return _settled(largest**alpha / np.maximum(weights, np.finfo(np.float64).tiny) ** (1 - alpha), largest, weights)


def equalising(made: Array, weights: Array) -> Array:
    """s of cross-layer equalisation, from the ranges of the weights that make a channel and of those that read it."""
    return _settled(np.sqrt(made / np.maximum(weights, np.finfo(np.float64).tiny)), made, weights)


def _settled(scales: Array, *of: Array) -> Array:
    """About 1 in geometric mean; 1 for a channel that is dead, or that nobody reads."""
    alive = np.all([each > 0 for each in of], axis=0)
    if not alive.any():
        return np.ones_like(scales)
    logs = np.log2(scales, where=alive, out=np.zeros_like(scales))
    logs[alive] -= logs[alive].mean()
    return np.asarray(np.exp2(np.clip(logs, -np.log2(_BOUND), np.log2(_BOUND))))


def _together(largest: Array, tied: npt.NDArray[np.int64] | None) -> Array:
    """The largest of what channels that have one scale have."""
    if tied is None:
        return largest
    found = np.zeros_like(largest)
    np.maximum.at(found, tied, largest)
    return found[tied]


def choose(
    site: Site, made: npt.NDArray[Any] | None, ways: Sequence[Way], methods: Sequence[str], bits: int, gain: float,
    tied: npt.NDArray[np.int64] | None = None,
) -> Choice:  # fmt: skip
    """The least error of layers that read one activation: over its ranges by several methods, and over those with its channels scaled in these
    ways, where that makes the error less than `gain` times what it is without. `made`: the largest weights of each channel in the layer
    before, where that takes the scale; `tied`: of each channel the first of those that must have its scale. Of several methods the first are tried with each way, the last with the best."""
    weights = _together(np.max([matrix.largest() for matrix in site.matrices], axis=0).astype(np.float64), tied)
    levels, trials = levels_of(bits), site.trials()

    def factor(way: Way, of: Half | Site) -> Array | None:
        if way is None:
            return None
        if way == EQUALISATION:
            return None if made is None else 1 / equalising(made.astype(np.float64), weights)
        return 1 / smoothing(_together(np.maximum(-of.low, of.high), tied), weights, float(way))

    def errors(way: Way, methods: Sequence[str]) -> list[tuple[float, str]]:
        found = np.zeros(len(methods))
        for layers, used in trials:
            channels = factor(way, used)
            grids = [grid_of(site.span(method, levels, channels, used), bits) for method in methods]
            found += np.mean([layer.errors(grids, channels) for layer in layers], axis=0) / len(trials)
        return list(zip(found.tolist(), methods))

    first, last = (methods[:-1], methods[-1:]) if len(methods) > 1 else (methods, ())
    plain = errors(None, methods)
    (bound, method), way = min(plain), None
    bound *= gain
    for each in ways if made is not None else [way for way in ways if way != EQUALISATION]:
        least = min(errors(each, first))
        if least < (bound, ""):
            (bound, method), way = least, each
    if way is not None and last:
        bound, method = min((bound, method), *errors(way, last))
    channels = factor(way, site)
    after = bound if way is not None else min(plain)[0]
    return Choice(channels, way, method, site.span(method, levels, channels), plain[0][0], after)
