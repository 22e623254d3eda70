"""Which of the two nearest integers a weight on 8 bits becomes: by what the layer reads, not by distance alone.

What a rounding changes of a layer's results over the calibration data is, for each output, (w - q) H (w - q)^T with H = X X^T of its
input. "gptq" rounds one input after the other and makes up for each error by the inputs that are still floats (E. Frantar et al., 2022).
"adaround" learns for all weights at once whether each goes up or down (M. Nagel et al., "Up or Down? Adaptive Rounding for Post-Training
Quantization", 2020, equations 21 to 24), with the layer's error written by H instead of by samples, so that no samples need to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from maas_rt._errors import CompileError

from .._deep import heed
from ._gptq import compensated
from ._grid import quantized_weights, weight_scales
from ._grids import Grid
from ._measure import decibels, single_threaded
from ._moments import Moments, note_of_few, second_moments, weight_as_matrix, weight_from_matrix
from ._observe import Observer

__all__ = ["adaround", "gptq8", "rounded_weights", "squared_error"]

Array = npt.NDArray[np.float32]

_LEVELS = 127
_STEPS, _RATE = 500, 0.03
_WARM = 0.1  # of the steps, without the regulariser
_LAMBDA = 3.0  # beside an error that is 1 for each weight where it is rounded to nearest
_BETA = (20.0, 2.0)  # from, to
_LOW, _HIGH = -0.1, 1.1  # what the sigmoid is stretched to: gamma and zeta
_DOWN = -20.0  # where the sigmoid is flat below 0


def squared_error(weights: Array, hessian: Array, q: npt.NDArray[np.int8], scale: Array) -> npt.NDArray[np.float64]:
    """[outputs]: over the columns that the Hessian [K, K] is of."""
    e = weights.astype(np.float64) - q * scale.astype(np.float64)
    return np.asarray(((e @ hessian) * e).sum(axis=1))


def gptq8(weights: Array, hessian: Array, scale: Array) -> npt.NDArray[np.int8]:
    """int8 [outputs, K] of weights [outputs, K] by the Hessian [K, K], on symmetric steps of `scale` [outputs, 1].

    Raises numpy.linalg.LinAlgError where the Hessian has no inverse, whatever the damping.
    """
    middle = np.full(scale.shape, _LEVELS, np.float32)
    q, _, _ = compensated(weights, hessian, Grid(scale, middle, 2 * _LEVELS), weights.shape[1])
    return np.asarray(q - _LEVELS, np.int8)


def adaround(weights: Array, hessian: Array, scale: Array) -> npt.NDArray[np.int8]:
    """As `gptq8`; each weight becomes one of the two integers next to it. Weights that are 0, as pruned ones, stay 0."""
    exact = weights / scale
    floor = np.floor(exact)
    rest = exact - floor
    steps = scale.astype(np.float64) ** 2
    unit = float(np.diag(hessian).mean() * steps.mean() / 12)  # a weight's part of the error, rounded to nearest
    if not unit > 0:
        return quantized_weights(weights, scale)
    curvature = (hessian * (2 / unit)).astype(np.float32)
    v = -np.log((_HIGH - _LOW) / (np.clip(rest, 1e-4, 1 - 1e-4) - _LOW) - 1).astype(np.float32)
    v[weights == 0] = _DOWN
    first, second = np.zeros_like(v), np.zeros_like(v)
    for step in range(_STEPS):
        if step % 50 == 0:
            heed()
        share, slope = _stretched(v)
        gradient = ((floor + share - exact) * scale) @ curvature * scale
        progress = (step / _STEPS - _WARM) / (1 - _WARM)
        if progress >= 0:
            beta = _BETA[1] + (_BETA[0] - _BETA[1]) * (1 + np.cos(progress * np.pi)) / 2
            distance = 2 * share - 1
            gradient -= _LAMBDA * 2 * beta * np.abs(distance) ** (beta - 1) * np.sign(distance)
        gradient *= slope
        first += (gradient - first) * np.float32(0.1)
        second += (np.square(gradient) - second) * np.float32(0.001)
        v -= (
            _RATE * (first / (1 - 0.9 ** (step + 1))) / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + np.float32(1e-8))
        )
    return np.asarray(np.clip(floor + (_stretched(v)[0] >= 0.5), -_LEVELS, _LEVELS), np.int8)


def _stretched(v: Array) -> tuple[Array, Array]:
    """The share of a step upwards, 0 to 1, and its slope."""
    sigmoid = 1 / (1 + np.exp(-v))
    stretched = sigmoid * np.float32(_HIGH - _LOW) + np.float32(_LOW)
    inside = (stretched > 0) & (stretched < 1)
    return np.clip(stretched, 0, 1), np.where(inside, sigmoid * (1 - sigmoid) * np.float32(_HIGH - _LOW), 0)


_Method = Callable[[Array, Array, Array], npt.NDArray[np.int8]]
_METHODS: dict[str, tuple[str, _Method]] = {"gptq": ("GPTQ", gptq8), "adaround": ("AdaRound", adaround)}


def rounded_weights(
    mod: tvm.IRModule, names: Mapping[relax.Var, str], rounding: str, observer: Observer
) -> tuple[dict[relax.Var, npt.NDArray[np.int8]], list[dict[str, Any]], list[str]]:
    """int8 weights of the layers `names`, shaped as the weights, symmetric with a scale for each output; for the manifest what each gains; and
    what is to be said of the data.

    Raises CompileError for a layer whose input has no finite squares.
    """
    found: dict[relax.Var, npt.NDArray[np.int8]] = {}
    told: list[dict[str, Any]] = []
    seen: list[tuple[str, int, int]] = []
    title, method = _METHODS[rounding]
    values = {b.var: b.value for block in mod["main"].body.blocks for b in block.bindings if b.var in names}
    for var, moments in second_moments(mod, list(names), observer):
        heed()
        if not np.isfinite(moments.sums).all():
            raise CompileError(
                f"calibration gives the layer {names[var]} numbers whose squares are not finite, by which its weights cannot be rounded: "
                "leave such samples out, or take the rounding nearest"
            )
        with single_threaded():
            q, errors = _rounded(weight_as_matrix(values[var]), moments, method)
        found[var] = weight_from_matrix(values[var], q)
        told.append({"layer": names[var], "signal_to_error_db": errors})
        seen.append((names[var], moments.columns, moments.sums.shape[-1]))
    return found, told, note_of_few(title, seen)


def _rounded(matrix: Array, moments: Moments, method: _Method) -> tuple[npt.NDArray[np.int8], list[float]]:
    """int8 [groups, outputs, depth], and signal to error of the results rounded to nearest and so. An output that does not gain keeps what is
    nearest."""
    found, signal, errors = [], 0.0, np.zeros(2)
    for weights, hessian in zip(matrix, moments.sums):
        scale = weight_scales(weights, 1)
        nearest = quantized_weights(weights, scale)
        q = method(weights, hessian, scale) if hessian.any() else nearest
        before, after = (squared_error(weights, hessian, each, scale) for each in (nearest, q))
        found.append(np.where((after < before)[:, None], q, nearest))
        signal += float(squared_error(weights, hessian, np.zeros_like(q), scale).sum())
        errors += [before.sum(), np.minimum(before, after).sum()]
    return np.stack(found), [decibels(e / signal) if signal else decibels(0.0) for e in errors]
