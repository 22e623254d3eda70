"""Quantized models, compared from one quantized tensor to the next: a tie that is rounded the other way is one step there, and nothing
behind it moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..importers._imported import Array, IsolatedOperators

__all__ = ["UnexplainedDifference", "first_unexplained"]

_MAX_BYTES = 1 << 30  # bytes that are read and given
_TRIALS = 8
_STEADY = 4.0  # of a float result's own movement
_UNEXPLAINED = 0.002  # of a result's elements at most, that differ though no tie is near: sums that cancel are less exact than their size tells
_STEP = 1


@dataclass(frozen=True)
class UnexplainedDifference:
    """A result that differs where no tie explains it: what computes it, how, and the error against its scale."""

    operators: list[str]
    what: str
    error: float


def first_unexplained(
    isolated: IsolatedOperators | None,
    run: Callable[[IsolatedOperators], Mapping[str, Array]],
    move: Callable[[IsolatedOperators, int], Mapping[str, Array]],
    tolerance: Callable[[str], float],
) -> UnexplainedDifference | None:
    """`run` gives the compiled model's results, `move` in one of several trials the source's own where its scales move by some roundings, and
    `tolerance` the admitted error of an element type. An element that differs must differ by no more than it moves; elements next to
    a tie do, so that at most _UNEXPLAINED of the others may, by one step. None where there is nothing to compare, or more than
    fits in memory."""
    if isolated is None or sum(a.nbytes for a in (*isolated.inputs.values(), *isolated.expected.values())) > _MAX_BYTES:
        return None
    results = run(isolated)
    moved_results: list[Mapping[str, Array]] | None = None
    for name, expected in isolated.expected.items():
        expected, found = np.asarray(expected), np.asarray(results[name])
        operators = isolated.operators[name].split(", ")
        if found.shape != expected.shape or found.dtype != expected.dtype:
            return UnexplainedDifference(
                operators, f"{found.dtype}{list(found.shape)} instead of {expected.dtype}{list(expected.shape)}", np.inf
            )
        if not expected.size:
            continue
        scale, apart_by = _scale(expected), _distance(found, expected)
        admitted = tolerance(str(expected.dtype)) * scale
        if not (apart_by > admitted).any():
            continue
        if moved_results is None:
            moved_results = [move(isolated, trial) for trial in range(_TRIALS)]
        integers = expected.dtype.kind in "iu"
        own_movement = np.max([_distance(np.asarray(each[name]), expected) for each in moved_results], axis=0)
        unexplained = np.where(
            apart_by > admitted + (own_movement if integers else _STEADY * own_movement), apart_by, 0
        )
        count, largest = int(np.count_nonzero(unexplained)), float(unexplained.max())
        if count > _UNEXPLAINED * expected.size or (integers and largest > _STEP):
            by = f"{largest:g} steps" if integers else f"{largest / scale if scale else largest:.2g} of their scale"
            return UnexplainedDifference(
                operators,
                f"{count} of {expected.size} elements differ, by up to {by}, where no tie is near",
                largest / scale if scale else largest,
            )
    return None


def _scale(expected: Array) -> float:
    finite = np.abs(expected.astype(np.float64))
    finite = finite[np.isfinite(finite)]
    return float(finite.max()) if finite.size else 0.0


def _distance(actual: Array, expected: Array) -> Array:
    """Of each element; infinite where one side alone is NaN, or infinities differ."""
    if actual.shape != expected.shape:
        return np.full(expected.shape, np.inf)
    g, w = actual.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(g - w)
    same = (g == w) | (np.isnan(g) & np.isnan(w))
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
