"""A quantized model some of whose layers a run can return to float, and what that makes of the error of its outputs.

One build serves all trials: beside each such layer stands the same in float, and an input of the model says whose results go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from .._deep import heed
from ._observe import Observer, Run
from ._static import quantize_static

__all__ = ["Switched"]

Array = npt.NDArray[Any]

_SAMPLES = 64  # at most, evenly spread: each is run once for each trial
_PARTS = 32


class Switched:
    """`layers`, of `mod`, are those that can be returned to float; `in_float` runs the model in float; `rest` is what else `quantize_static` takes."""

    def __init__(
        self, mod: tvm.IRModule, layers: Sequence[relax.Var], observer: Observer, in_float: Run, **rest: Any
    ) -> None:
        self._layers, self._observer, self._in_float = list(layers), observer, in_float
        self._names = observer.unused("float", len(self._layers))
        switches = [relax.Var(name, relax.TensorType([1], "bool")) for name in self._names]
        wide = _with_inputs(mod, switches, observer.inputs)
        quantized = quantize_static(wide, switches=dict(zip(self._layers, switches)), **rest)
        self._run = observer.built(quantized, self._names)

    def errors(self, trials: Sequence[frozenset[relax.Var]]) -> Array:
        """[parts, trials]: of the outputs where these layers are in float, by parts of the samples, whose mean is the whole error: squares against
        those of the outputs of the model in float, as a mean over its outputs of floats. Nothing but sums is kept of a sample."""
        sums: dict[str, Array] = {}  # by output: [parts, trials + 1], errors and last the signal
        step = -(-self._observer.count // _SAMPLES)
        parts = min(-(-self._observer.count // step), _PARTS)
        for number, sample in enumerate(islice(self._observer.samples, None, None, step)):
            heed()
            wanted = {k: v for k, v in self._in_float(sample).items() if v.dtype.kind == "f"}
            for name, want in wanted.items():
                sums.setdefault(name, np.zeros((parts, len(trials) + 1)))[number % parts, -1] += _squares(want, want)
            for i, trial in enumerate(trials):
                given = {name: np.array([var in trial]) for name, var in zip(self._names, self._layers)}
                found = self._run({**sample, **given})
                for name, want in wanted.items():
                    sums[name][number % parts, i] += _apart(found[name], want)
        said = [each for each in sums.values() if each[:, -1].any()]  # an output that is 0 throughout says nothing
        shares = [each[:, :-1] / each[:, -1].mean() for each in said]
        return np.asarray(np.mean(shares, axis=0)) if shares else np.zeros((parts, len(trials)))


def _with_inputs(mod: tvm.IRModule, more: Sequence[relax.Var], count: int) -> tvm.IRModule:
    """The module whose main takes these behind its `count` inputs."""
    main = mod["main"]
    parameters = [*main.params[:count], *more, *main.params[count:]]
    wide = mod.clone()
    wide["main"] = relax.Function(parameters, main.body, main.ret_ty, main.is_pure, main.attrs, main.span)
    return wide


def _apart(found: Array, want: Array) -> float:
    """The squared error; of another shape (how many there are hangs on the numbers) all of it is wrong."""
    if found.shape != want.shape:
        return _squares(want, want)
    with np.errstate(invalid="ignore"):
        return _squares(found.astype(np.float64) - want.astype(np.float64), want)


def _squares(x: Array, want: Array) -> float:
    """Their sum, where what is wanted is finite."""
    return float(np.square(x, dtype=np.float64, where=np.isfinite(want), out=np.zeros(x.shape)).sum())
