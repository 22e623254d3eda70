"""One recipe tried: compiled, timed beside the float model, and scored."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from maas_rt._errors import Error, InvalidArgumentError

from .._configs import CompileOptions
from ..artifact import Artifact
from ..importers import ImportedModel
from ._assign import Assignment
from ._journal import Journal
from ._methods import FLOAT, Method, recipe_of
from ._score import Score

__all__ = ["Trial", "Trials"]

Array = npt.NDArray[Any]
Build = Callable[[ImportedModel, CompileOptions], Artifact]

_SLICE = 0.02  # seconds that one model runs before the other's turn
_SLICES = 12  # of each
_INPUTS = 8  # sets that runs are timed on
_PROFILES = 10  # runs, of which each step's quickest counts


@dataclass(frozen=True)
class Trial:
    """Times in seconds of a run, `size` in bytes, `error` the power of the outputs' error over that of the outputs. `failure` says why there
    is no such model; `score` is None where it was not asked for."""

    assignment: Assignment
    failure: str = ""
    score: float | None = None
    latency: float = 0.0
    cpu: float = 0.0
    size: int = 0
    error: float = 0.0
    layer_times: dict[str, float] = field(default_factory=dict)

    def of(self, objective: str) -> float:
        """What is to become least."""
        return {"latency": self.latency, "size": float(self.size), "cost": self.cpu}[objective]


class Trials:
    """Tries recipes of one model; what the journal knows is not tried again."""

    def __init__(
        self,
        model: ImportedModel,
        options: CompileOptions,
        float_artifact: Artifact,
        build: Build,
        methods: Mapping[str, Method],
        samples: Sequence[Mapping[str, Array]],
        data: Any,
        score: Score,
        journal: Journal,
    ) -> None:
        self.model, self.methods, self.data, self.score = model, methods, data, score
        self.tried: list[Trial] = []
        self._options, self._build, self._journal = options, build, journal
        self._samples = samples
        self._float_times: tuple[float, float] | None = None
        self.float_artifact = float_artifact
        self.float_size = len(float_artifact.to_bytes())
        self.float_program = float_artifact.loaded()
        self.expected = [self.float_program.run(dict(sample)) for sample in samples]
        self.float_score = score.of_float(self.float_program)

    def artifact(self, assignment: Assignment) -> Artifact:
        """Compiled as `assignment` says, not verified."""
        if not assignment:
            return self.float_artifact
        recipe = recipe_of(assignment, self.methods, self.data)
        return self._build(self.model, replace(self._options, recipe=recipe))

    def try_out(self, assignment: Assignment, *, scored: bool = True) -> Trial:
        """The trial, from the journal where it is known. An error of the compiler is the trial's `failure`.

        Raises InvalidArgumentError where the user's function fails.
        """
        key = hashlib.sha256(json.dumps([assignment, scored], sort_keys=True).encode()).hexdigest()[:32]
        if key in self._journal:
            trial = Trial(**self._journal[key])
        else:
            trial = self._tried(assignment, scored)
            self._journal[key] = asdict(trial)
        if not assignment and scored:  # what all others are timed against, also where it is the journal's
            self._float_times = trial.latency, trial.cpu
        if scored and not any(each.assignment == assignment for each in self.tried):
            self.tried.append(trial)
        return trial

    def _tried(self, assignment: Assignment, scored: bool) -> Trial:
        try:
            artifact = self.artifact(assignment)
            program = artifact.loaded()
            error = self._error(program)
        except InvalidArgumentError:
            raise
        except Error as failed:
            return Trial(assignment, str(failed))
        if not scored:
            return Trial(assignment, error=error)
        latency, cpu = self._timed(program)
        return Trial(
            assignment,
            score=self.score.of(program, _described(assignment)),
            latency=latency,
            cpu=cpu,
            size=len(artifact.to_bytes()),
            error=error,
            layer_times=self._layer_times(program),
        )

    def _error(self, program: Any) -> float:
        """Against the float model, over the kept samples: the worst output's."""
        powers: dict[str, list[float]] = {}
        for sample, expected in zip(self._samples, self.expected):
            for name, actual in program.run(dict(sample)).items():
                want = expected[name].astype(np.float64)
                if want.dtype.kind == "f" and want.size:
                    sums = powers.setdefault(name, [0.0, 0.0])
                    sums[0] += float(((actual.astype(np.float64) - want) ** 2).sum())
                    sums[1] += float((want**2).sum())
        return max((error / max(signal, 1e-30) for error, signal in powers.values()), default=0.0)

    def _timed(self, program: Any) -> tuple[float, float]:
        """Wall and CPU seconds of a run: the float model's, times the median ratio of slices that take turns (a machine's speed changes
        from second to second, that of two models alike). The float model's are the least of its slices, once for all trials."""
        inputs = [dict(sample) for sample in self._samples[:_INPUTS]]
        pairs = [(_slice(self.float_program, inputs), _slice(program, inputs)) for _ in range(_SLICES)]
        if self._float_times is None:
            self._float_times = min(first[0] for first, _ in pairs), min(first[1] for first, _ in pairs)
        wall, cpu = self._float_times
        ratios = [[second[i] / max(first[i], 1e-12) for first, second in pairs] for i in (0, 1)]
        return wall * float(np.median(ratios[0])), cpu * float(np.median(ratios[1]))

    def _layer_times(self, program: Any) -> dict[str, float]:
        """Seconds by the name of the step, the least of a few runs."""
        found: dict[str, float] = {}
        for i in range(_PROFILES):
            sample = self._samples[i % len(self._samples)]
            sums: dict[str, float] = {}
            for record in program.profile(dict(sample)).records:
                sums[record.name] = sums.get(record.name, 0.0) + record.duration_ns / 1e9 / record.lanes
            found = {name: min(seconds, found.get(name, np.inf)) for name, seconds in sums.items()}
        return found


def _slice(program: Any, inputs: Sequence[dict[str, Array]]) -> tuple[float, float]:
    """Mean wall and CPU seconds of runs for _SLICE seconds."""
    wall, cpu, count = time.perf_counter(), time.process_time(), 0
    while count == 0 or time.perf_counter() - wall < _SLICE:
        program.run(inputs[count % len(inputs)])
        count += 1
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def _described(assignment: Assignment) -> str:
    counts = [
        f"{sum(each == name for each in assignment.values())} {name}" for name in sorted(set(assignment.values()))
    ]
    return f"the model with layers as {', '.join(counts)}" if counts else f"the {FLOAT} model"
