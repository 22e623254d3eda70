"""Candidates of one step timed against each other: each a file of one step, run in turns, as cold as it is in its model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from maas_rt._model import load

from .._configs import TargetSpec
from .._deep import heed
from ..artifact import Artifact, make_manifest
from ..codegen import build_code, collect_functions, schedule_functions
from ..importers import ImportedModel
from ..passes import KernelCall, as_reshapes, remake_kernel_call
from ..passes._rewrite import array_of
from ..passes.legalize import fuse, legalize
from ..plan import build_plan
from ._candidates import Task, argument_types
from ._generated import GENERATED, as_operators

__all__ = ["Bench"]

_ROUNDS = 10  # even: one half chooses, the other confirms
_GAIN = 0.97  # of the first candidate's time: less is needed for another one
_FEWEST = 4  # rounds that say anything
_MEMORY = 256 << 20  # of weights, dense; packed for Winograd they take up to four times as much
_SWEEP_BYTES = 64 << 20  # more than the caches that matter hold


class Bench:
    """Times candidates at `threads` threads. Between two runs as many bytes are read as the model's weights take, at most 64 MiB: a
    step of a large model finds its own in memory, one of a small model in a cache."""

    def __init__(self, threads: int, weight_bytes: int, target: TargetSpec) -> None:
        self._threads, self._target = threads, target
        self.swept = min(
            1 << weight_bytes.bit_length(), _SWEEP_BYTES
        )  # about: times serve models of about the same size
        self._sweep: npt.NDArray[np.float32] = np.ones(self.swept // 4 + 1, np.float32)

    def quickest(self, task: Task, calls: Sequence[KernelCall], until: float) -> tuple[int, list[float]] | None:
        """(index of the candidate to take, median seconds of each): the first one, unless another is quicker by 3 % in both halves of
        the rounds. None where the monotonic clock passed `until` before there were enough rounds.

        Large weights are packed for two candidates at a time, the first one and another.
        """
        if task.weight.nbytes * len(calls) <= _MEMORY:
            groups = [list(calls)]
        else:
            groups = [[calls[0], other] for other in calls[1:]]
        ratios: list[list[float]] = [[1.0, 1.0]]
        seconds: list[float] = []
        for group in groups:
            times = self._race(task, group, until)
            if times is None:
                return None
            ratios += [[a / b for a, b in zip(own, times[0])] for own in times[1:]]
            seconds += [statistics.median(own) for own in times[len(seconds) > 0 :]]
        best = min(range(len(calls)), key=lambda i: statistics.median(ratios[i][0::2]))
        halves = [statistics.median(ratios[best][half::2]) for half in (0, 1)]
        return (best if max(halves) < _GAIN else 0), seconds

    def _race(self, task: Task, calls: Sequence[KernelCall], until: float) -> list[list[float]] | None:
        """Seconds by candidate and round."""
        sessions = [load(_file(task, call, self._target)).session(self._threads, profile=True) for call in calls]
        rng = np.random.default_rng(0)
        inputs = {info.name: _values(rng, [int(n) for n in info.shape], info.dtype) for info in sessions[0].inputs}
        times: list[list[float]] = [[] for _ in calls]
        for number in range(_ROUNDS + 1):
            heed()
            if time.monotonic() > until:
                return times if number > _FEWEST else None
            for session, own in zip(sessions, times):
                self._sweep.sum()
                for array in inputs.values():  # the step before it has just written them
                    array.sum()
                seconds = sum(record.duration_ns for record in session.profiled(inputs).records) * 1e-9
                if number > 0:  # the first run takes memory, and first touches it
                    own.append(seconds)
        return times


def _values(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> npt.NDArray[Any]:
    if dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, dtype=np.float32)


def _file(task: Task, call: KernelCall, target: TargetSpec) -> bytes:
    """A file that does nothing but the call; operands that the step's neighbours make are inputs."""
    builder = relax.BlockBuilder()
    params: list[relax.Var] = []
    args: list[relax.Expr | None] = []
    for position, (arg, ty) in enumerate(zip(call.args, argument_types(task))):
        if ty is None or array_of(arg) is not None:
            args.append(arg)
            continue
        params.append(relax.Var(f"x{position}", ty))
        args.append(params[-1])
    with builder.function("main", params):
        out = relax.TensorType(list(task.y), task.dtype)
        if call.contract == GENERATED:
            result = as_operators(call, args, builder.emit)
        else:
            result = builder.emit(remake_kernel_call(replace(call, args=args), out))
        builder.emit_func_output(relax.Tuple([result]))
    mod: tvm.IRModule = builder.get()
    symbols: dict[str, str] = {}
    code: dict[str, bytes] = {}
    if call.contract == GENERATED:
        mod = as_reshapes(fuse(legalize(mod)))
        generated = schedule_functions(collect_functions(mod))
        symbols, code = generated.symbols, {target.name: build_code(generated.functions, target)}
    names = [str(var.name) for var in params]
    model = ImportedModel(mod, names, ["y"], source=None)  # type: ignore[arg-type]  # nobody verifies it
    linear = build_plan(model, mod, symbols, "step")
    return Artifact(linear, code, make_manifest(model, linear.plan, list(code))).to_bytes()
