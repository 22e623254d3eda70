"""The search for a recipe within a budget: whole models first, then layer by layer.

Every method is tried on all layers at once. Where one of those breaks the budget, what each layer adds to the error is measured
(`_sensitivity.py`), what it saves is read off profiles of the same trials, and an integer program finds the cheapest assignments for
bounds of the error, of which whole trials find the largest that the budget admits. Then single layers are changed while it gains.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from maas_rt._errors import CompileError, InvalidArgumentError

from .._budget import Budget
from .._configs import Progress
from ._assign import Assignment, assign
from ._methods import FLOAT, Method
from ._sensitivity import layer_errors
from ._trial import Trial, Trials

__all__ = ["Found", "layer_seconds", "search"]

_BISECTIONS = 6
_FAILURES = 6  # of changes of single layers, one after the other, before it is enough
_EQUAL = 1.005  # times the least: no more than what a measurement may be off by
_ERRORS_SHARE = 0.4  # of the time, for what layers add to the error


Tables = dict[str, dict[str, dict[str, float]]]


@dataclass
class Found:
    """`best` keeps the budget; `tables` hold what was expected of each layer and method: error, seconds, bytes."""

    best: Trial
    tables: Tables = field(default_factory=dict)


class _Clock:
    def __init__(self, seconds: float, progress: Progress | None) -> None:
        self._begin, self._seconds, self._progress = time.monotonic(), seconds, progress

    @property
    def left(self) -> float:
        return self._seconds - (time.monotonic() - self._begin)

    def tell(self, what: str) -> None:
        if self._progress is not None:
            left = max(self.left, 0.0)
            self._progress(f"{what}, at most {_duration(left)} more", min(1 - left / self._seconds, 1.0))


def search(
    trials: Trials,
    able: Mapping[str, Sequence[str]],
    weights: Mapping[str, int],
    budget: Budget,
    progress: Progress | None = None,
) -> Found:
    """The best model within the budget. `able`: the methods that each layer can have beside floats; `weights`: how many numbers it has.

    Raises CompileError where nothing that was tried keeps the budget; it names what came nearest.
    """
    _check_noise(trials, budget)
    clock = _Clock(budget.seconds, progress)
    clock.tell("the float model")
    base = trials.try_out({})
    whole: dict[str, Trial] = {FLOAT: base}
    for name, method in trials.methods.items():
        chosen = _on_all(method, able)
        if chosen and clock.left > 0 and _is_worth_a_trial(method, whole, trials, budget):
            clock.tell(f"all layers {name}")
            whole[name] = trials.try_out(chosen)
    found = Found(base)
    better = [t for name, t in whole.items() if name != FLOAT and not t.failure and _gains(t, base, budget)]
    if any(not _keeps(t, trials, budget) for t in better) or len(better) > 1 or not _keeps(base, trials, budget):
        found.tables = _tables(trials, able, weights, whole, budget, clock)
        _bisect(trials, list(able), _apart(trials, found.tables), whole, budget, clock)
        _refine(trials, found.tables, budget, clock)
    kept = [t for t in trials.tried if _keeps(t, trials, budget)]
    if not kept:
        raise CompileError(_nearest(trials, budget))
    found.best = _best(kept, budget)
    return found


def _is_worth_a_trial(method: Method, whole: Mapping[str, Trial], trials: Trials, budget: Budget) -> bool:
    """Whether neither what costs no more has kept the budget, nor what asks for less has broken its bound of the score."""
    if method.unless in whole and _keeps(whole[method.unless], trials, budget):
        return False
    less = whole.get(method.behind)
    return not method.behind or (less is not None and _score_keeps(less, trials, budget))


def _on_all(method: Method, able: Mapping[str, Sequence[str]]) -> Assignment:
    """The method for all layers that can have it; {} where there are none."""
    if not any(method.name in names for names in able.values()):
        return {}
    choices = {layer: [n for n in (method.name, method.behind) if n in able[layer]] for layer in able}
    return {layer: names[0] for layer, names in choices.items() if names}


def _best(kept: Sequence[Trial], budget: Budget) -> Trial:
    """The least objective; of those that are as good as equal in it, the best score."""
    least = min(t.of(budget.objective) for t in kept)
    return min(
        (t for t in kept if t.of(budget.objective) <= _EQUAL * least), key=lambda t: (-(t.score or 0.0), t.error)
    )


def _check_noise(trials: Trials, budget: Budget) -> None:
    drop = trials.float_score - budget.least_score(trials.float_score)
    if trials.score.noise > drop:
        raise InvalidArgumentError(
            f"evaluate gives the same float model scores that differ by {trials.score.noise:.3g}, which is more than the drop of {drop:.3g} "
            "that the budget admits: give it a fixed seed or more data, or admit more"
        )


def _keeps(trial: Trial, trials: Trials, budget: Budget) -> bool:
    """Whether the budget admits it. What is within the noise of the score's bound counts as beyond it."""
    if trial.failure or trial.score is None:
        return False
    least = budget.least_score(trials.float_score) + (trials.score.noise if trial.assignment else 0.0)
    return (
        trial.score >= min(least, trials.float_score)
        and (budget.max_latency is None or trial.latency <= budget.max_latency)
        and (budget.max_size is None or trial.size <= budget.max_size)
    )


def _gains(trial: Trial, base: Trial, budget: Budget) -> bool:
    return (
        trial.of(budget.objective) < base.of(budget.objective)
        or (budget.max_size is not None and trial.size < base.size)
        or (budget.max_latency is not None and trial.latency < base.latency)
    )


def _tables(
    trials: Trials,
    able: Mapping[str, Sequence[str]],
    weights: Mapping[str, int],
    whole: Mapping[str, Trial],
    budget: Budget,
    clock: _Clock,
) -> Tables:
    """Errors, seconds and bytes by layer and method."""
    errors: dict[str, dict[str, float]] = {layer: {FLOAT: 0.0} for layer in able}
    until = clock.left * (1 - _ERRORS_SHARE)
    base = whole[FLOAT]
    methods = [n for n, trial in whole.items() if n != FLOAT and not trial.failure and _gains(trial, base, budget)]
    for name in methods:
        if trials.methods[name].together:  # no layer has it alone
            chosen = whole[name].assignment
            for layer in (layer for layer, had in chosen.items() if had == name):
                errors[layer][name] = whole[name].error / len(chosen)
            continue

        def error_of(assignment: Assignment) -> float | None:
            if clock.left < until:
                return None
            clock.tell(f"what {_layers(len(assignment))} to the error as {next(iter(assignment.values()))}")
            trial = trials.try_out(assignment, scored=False)
            return math.inf if trial.failure else trial.error

        for layer, error in layer_errors(list(whole[name].assignment), name, whole[name].error, error_of).items():
            if math.isfinite(error):  # there is such a model
                errors[layer][name] = error
    named = {layer: [FLOAT, *(name for name in methods if name in errors[layer])] for layer in able}
    seconds = {layer: {name: layer_seconds(layer, whole[name], base) for name in named[layer]} for layer in able}
    sizes = {
        layer: {name: weights[layer] * trials.methods[name].bytes_per_weight for name in named[layer]} for layer in able
    }
    return {"errors": errors, "seconds": seconds, "sizes": sizes}


def layer_seconds(layer: str, trial: Trial, base: Trial) -> float:
    """Of a layer's step in a trial. One that has become part of another step under that one's name has its time in the float model, as much
    less as the whole model is quicker; what has no step of its own there, either, costs the same with every method."""
    found = trial.layer_times.get(layer)
    if found is not None:
        return found
    return base.layer_times.get(layer, 0.0) * (trial.latency / base.latency if base.latency > 0 else 1.0)


def _apart(trials: Trials, tables: Tables) -> Tables:
    """The tables of those methods that layers may have each by itself."""
    return {
        key: {
            layer: {name: x for name, x in of.items() if not trials.methods[name].together}
            for layer, of in table.items()
        }
        for key, table in tables.items()
    }


def _bisect(
    trials: Trials,
    layers: Sequence[str],
    tables: Tables,
    whole: Mapping[str, Trial],
    budget: Budget,
    clock: _Clock,
) -> None:
    """Tries the cheapest assignments for bounds of the error between none and that of the worst whole model."""
    low = 0.0
    high = max((sum(tables["errors"][layer].get(name, 0.0) for layer in layers) for name in whole), default=0.0)
    size = budget.max_size
    room = None if size is None else size - (trials.float_size - 4.0 * sum(_weights(tables, layers)))
    costs = tables["sizes"] if budget.objective == "size" else tables["seconds"]
    for _ in range(_BISECTIONS):
        if clock.left <= 0 or high <= 0:
            return
        bound = math.sqrt(low * high) if low > 0 else high / 8
        found = assign(
            layers, costs, tables["errors"], bound, tables["sizes"], room if room is None or room > 0 else 1.0
        )
        if found is None:
            low = bound
            continue
        clock.tell("an assignment of layers")
        trial = trials.try_out(_without_float(found))
        if _score_keeps(trial, trials, budget):
            low = bound
        else:
            high = bound


def _refine(trials: Trials, tables: Tables, budget: Budget, clock: _Clock) -> None:
    """Changes single layers of the best model so far, those first that gain most for the error that they add."""
    costs = tables["sizes"] if budget.objective == "size" else tables["seconds"]
    failures = 0
    tried: set[tuple[str, str]] = set()
    while failures < _FAILURES and clock.left > 0:
        kept = [t for t in trials.tried if _keeps(t, trials, budget)]
        if not kept:
            return
        best = _best(kept, budget)
        change = max(
            (c for c in _changes(trials, best.assignment, costs, tables["errors"]) if (c[1], c[2]) not in tried),
            default=None,
        )
        if change is None:
            return
        _, layer, name = change
        tried.add((layer, name))
        clock.tell(f"layer {layer} as {name}")
        trial = trials.try_out(_without_float({**best.assignment, layer: name}))
        failures = (
            0
            if _keeps(trial, trials, budget) and trial.of(budget.objective) < best.of(budget.objective)
            else failures + 1
        )


def _changes(
    trials: Trials,
    assignment: Assignment,
    costs: Mapping[str, Mapping[str, float]],
    errors: Mapping[str, Mapping[str, float]],
) -> Iterable[tuple[float, str, str]]:
    """(gain for the error that it adds, layer, method) of what would make one layer cheaper."""
    for layer, of in costs.items():
        now = assignment.get(layer, FLOAT)
        if now not in of or now not in errors[layer]:
            continue  # nothing is known of it alone
        for name, cost in of.items():
            old, new = trials.methods[now], trials.methods[name]
            parts = (old.together or new.together) and old.prune is not new.prune
            gain = of[now] - cost
            if name != now and gain > 0 and name in errors[layer] and not parts:
                yield gain / max(errors[layer][name] - errors[layer][now], 1e-12), layer, name


def _score_keeps(trial: Trial, trials: Trials, budget: Budget) -> bool:
    if trial.failure or trial.score is None:
        return False
    return trial.score >= budget.least_score(trials.float_score) + trials.score.noise


def _without_float(assignment: Assignment) -> Assignment:
    return {layer: name for layer, name in assignment.items() if name != FLOAT}


def _weights(tables: Tables, layers: Sequence[str]) -> Iterable[float]:
    return (tables["sizes"][layer][FLOAT] / 4 for layer in layers)


def _nearest(trials: Trials, budget: Budget) -> str:
    """Of what was tried, that which breaks the budget least."""
    scored = [t for t in trials.tried if not t.failure and t.score is not None]

    def beyond(trial: Trial) -> float:
        assert trial.score is not None
        least = budget.least_score(trials.float_score)
        return (
            max(0.0, least - trial.score) / max(abs(trials.float_score), 1e-12)
            + (max(0.0, trial.latency / budget.max_latency - 1) if budget.max_latency else 0.0)
            + (max(0.0, trial.size / budget.max_size - 1) if budget.max_size else 0.0)
        )

    nearest = min(scored, key=beyond)
    bounds = [f"a score of {budget.least_score(trials.float_score):.6g} or more"]
    bounds += [f"{budget.max_latency * 1e3:.3g} ms"] if budget.max_latency else []
    bounds += [f"{budget.max_size:,} bytes"] if budget.max_size else []
    return (
        f"no model keeps the budget of {', '.join(bounds)}: of {len(scored)} that were tried the nearest has a score of {nearest.score:.6g}, takes "
        f"{nearest.latency * 1e3:.3g} ms and has {nearest.size:,} bytes; admit more, or give the search more to choose from; nothing was written"
    )


def _layers(count: int) -> str:
    return "1 layer adds" if count == 1 else f"{count} layers add"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
