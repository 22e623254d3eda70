"""What a search found, as figures: for the manifest, and with every trial and layer for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from .._budget import Budget
from ._methods import FLOAT
from ._search import Found
from ._trial import Trial, Trials

__all__ = ["report", "summary", "worst_inputs"]

_WORST = 10  # inputs that are named


def summary(trials: Trials, best: Trial, budget: Budget, judged: tuple[float, float] | None) -> dict[str, Any]:
    """Before and after; `judged` are the scores of the float and the compressed model on data that chose nothing. Seconds and bytes."""
    base = next(t for t in trials.tried if not t.assignment)
    assert best.score is not None
    found: dict[str, Any] = {
        "budget": {**asdict(budget)},
        "score": {"float": trials.float_score, "compressed": best.score, "noise": trials.score.noise},
        "bytes": {"float": base.size, "compressed": best.size, "ratio": round(base.size / best.size, 3)},
        "latency": _of_times(base.latency, best.latency),
        "cpu": _of_times(base.cpu, best.cpu),
        "error": best.error,
        "trials": len(trials.tried),
        "methods": {name: list(best.assignment.values()).count(name) for name in sorted(set(best.assignment.values()))},
    }
    if judged is not None:
        found["judged"] = {"float": judged[0], "compressed": judged[1]}
    return found


def report(
    summed: Mapping[str, Any],
    trials: Trials,
    found: Found,
    budget: Budget,
    layers: Sequence[tuple[str, str, str]],
    weights: Mapping[str, int],
    worst: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> dict[str, Any]:
    """All of it. `layers`: name, kind, and the reason of those that stay in float."""
    best = found.best
    base = next(t for t in trials.tried if not t.assignment)
    front = pareto_front(trials.tried, budget.objective)
    return {
        "version": 1,
        **summed,
        "notes": list(notes),
        "tried": [
            {
                "score": t.score, "latency": t.latency, "cpu": t.cpu, "bytes": t.size, "error": t.error, "failure": t.failure,
                "layers": {name: list(t.assignment.values()).count(name) for name in sorted(set(t.assignment.values()))},
                "on_front": t in front, "chosen": t is best or t == best,
            }
            for t in trials.tried
        ],
        "per_layer": [
            {
                "name": name, "kind": kind, "method": best.assignment.get(name, FLOAT), "reason": reason, "weights": weights.get(name, 0),
                "error": found.tables.get("errors", {}).get(name, {}).get(best.assignment.get(name, FLOAT)),
                "float_seconds": base.layer_times.get(name), "seconds": best.layer_times.get(name),
            }
            for name, kind, reason in layers
        ],
        "worst_inputs": list(worst),
    }  # fmt: skip


def pareto_front(tried: Sequence[Trial], objective: str) -> list[Trial]:
    """Those that no other beats in both the score and the objective."""
    places = [(t, t.score, -t.of(objective)) for t in tried if not t.failure and t.score is not None]
    return [
        t
        for t, score, cheap in places
        if not any((s, c) != (score, cheap) and s >= score and c >= cheap for _, s, c in places)
    ]


def worst_inputs(
    expected: Sequence[Mapping[str, npt.NDArray[Any]]], actual: Sequence[Mapping[str, npt.NDArray[Any]]]
) -> list[dict[str, Any]]:
    """The kept samples whose outputs changed most: number, signal to error in decibels, and whether the largest element moved."""
    rows: list[dict[str, Any]] = []
    for i, (want, got) in enumerate(zip(expected, actual)):
        for name, reference in want.items():
            if reference.dtype.kind != "f" or not reference.size:
                continue
            error = float(((got[name].astype(np.float64) - reference) ** 2).sum())
            signal = float((reference.astype(np.float64) ** 2).sum())
            rows.append(
                {
                    "sample": i,
                    "output": name,
                    "signal_to_error_db": float(10 * np.log10(max(signal, 1e-30) / max(error, 1e-30))),
                    "argmax_changed": bool(np.argmax(reference) != np.argmax(got[name])),
                }
            )
    return sorted(rows, key=lambda row: row["signal_to_error_db"])[:_WORST]


def _of_times(base: float, best: float) -> dict[str, float]:
    return {"float": base, "compressed": best, "ratio": round(base / max(best, 1e-12), 3)}
