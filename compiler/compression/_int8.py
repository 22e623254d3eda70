"""The recipe Int8: the ranges of activations, from runs in float over the calibration samples."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from maas_rt._errors import CompileError

from .._recipes import Int8
from ._observe import Observer
from ._ranges import Numbers, find_range
from ._static import activations, quantize_static

__all__ = ["quantize_int8"]

Array = npt.NDArray[Any]

_OUTLIER = 16.0  # times the median of the samples' largest numbers
_FEW = 4  # samples, of which none can be called an outlier


def quantize_int8(
    mod: tvm.IRModule, chosen: Sequence[relax.Var], recipe: Int8, observer: Observer
) -> tuple[tvm.IRModule, list[str]]:
    """The layers `chosen` on 8 bits, and what is to be said of the data.

    Raises CompileError for an activation that is not finite.
    """
    sites = activations(mod, chosen)
    calibration = _Calibration(len(sites), recipe)
    whole = recipe.method != "minmax"
    observer.observe(mod, sites, lambda x: [x] if whole else [relax.op.min(x), relax.op.max(x)], calibration.add)
    levels = 127 if recipe.activation_bits == 7 else 255
    ranges = [find_range(numbers, recipe.method, levels) for numbers in calibration.numbers]
    return quantize_static(mod, chosen, ranges, recipe.activation_bits), calibration.notes()


class _Calibration:
    """The numbers of all activations."""

    def __init__(self, sites: int, recipe: Int8) -> None:
        self.numbers = [Numbers() for _ in range(sites)]
        self._whole = recipe.method != "minmax"
        self._peaks = [array("f") for _ in range(sites)]  # the largest magnitude of each sample

    def add(self, sample: int, values: list[list[Array]]) -> None:
        for numbers, peaks, results in zip(self.numbers, self._peaks, values):
            low, high = numbers.add(results[0] if self._whole else np.array(results, np.float32))
            if not np.isfinite([low, high]).all():
                raise CompileError(
                    f"calibration sample {sample} gives an activation that is not finite, which 8 bits do not hold"
                )
            peaks.append(max(-low, high))

    def notes(self) -> list[str]:
        """What the ranges owe to one sample alone: the largest such case."""
        count = len(self._peaks[0]) if self._peaks else 0
        if self._whole or count < _FEW:
            return []
        worst = (_OUTLIER, 0, 0.0, 0.0)
        for peaks in self._peaks:
            largest, usual = float(max(peaks)), float(np.median(peaks))
            if usual > 0 and largest / usual > worst[0]:
                worst = (largest / usual, peaks.index(max(peaks)), largest, usual)
        factor, sample, largest, usual = worst
        if not largest:
            return []
        return [
            f"calibration sample {sample} reaches {largest:.3g} in a layer in which the others reach {usual:.3g}, and the others' numbers "
            f"have {factor:.0f} times fewer of the steps: leave it out, or take the method percentile"
        ]
