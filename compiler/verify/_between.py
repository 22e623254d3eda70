"""Quantized models, compared from one quantized tensor to the next: a tie that is rounded the other way is one step there, and nothing
behind it moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..importers._imported import Apart, Array

__all__ = ["Off", "first_off"]

_MOST = 1 << 30  # bytes that are read and given
_TRIALS = 8
_STEADY = 4.0  # of a float result's own movement
_UNEXPLAINED = 0.002  # of a result's elements at most, that differ though no tie is near: sums that cancel are less exact than their size tells
_STEP = 1


@dataclass(frozen=True)
class Off:
    """A result that differs where no tie explains it: what computes it, how, and the error against its scale."""

    operators: list[str]
    what: str
    error: float


def first_off(
    apart: Apart | None,
    run: Callable[[Apart], Mapping[str, Array]],
    move: Callable[[Apart, int], Mapping[str, Array]],
    tolerance: Callable[[str], float],
) -> Off | None:
    """`run` gives the compiled model's results, `move` in one of several trials the source's own where its scales move by some roundings, and
    `tolerance` the admitted error of an element type. An element that differs must differ by no more than it moves; elements next to
    a tie do, so that at most _UNEXPLAINED of the others may, by one step. None where there is nothing to compare, or more than
    fits in memory."""
    if apart is None or sum(a.nbytes for a in (*apart.inputs.values(), *apart.wanted.values())) > _MOST:
        return None
    got = run(apart)
    moved: list[Mapping[str, Array]] | None = None
    for name, wanted in apart.wanted.items():
        wanted, found = np.asarray(wanted), np.asarray(got[name])
        operators = apart.operators[name].split(", ")
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            return Off(
                operators, f"{found.dtype}{list(found.shape)} instead of {wanted.dtype}{list(wanted.shape)}", np.inf
            )
        if not wanted.size:
            continue
        scale, apart_by = _scale(wanted), _distance(found, wanted)
        admitted = tolerance(str(wanted.dtype)) * scale
        if not (apart_by > admitted).any():
            continue
        if moved is None:
            moved = [move(apart, trial) for trial in range(_TRIALS)]
        integers = wanted.dtype.kind in "iu"
        own = np.max([_distance(np.asarray(each[name]), wanted) for each in moved], axis=0)
        left = np.where(apart_by > admitted + (own if integers else _STEADY * own), apart_by, 0)
        count, most = int(np.count_nonzero(left)), float(left.max())
        if count > _UNEXPLAINED * wanted.size or (integers and most > _STEP):
            by = f"{most:g} steps" if integers else f"{most / scale if scale else most:.2g} of their scale"
            return Off(
                operators,
                f"{count} of {wanted.size} elements differ, by up to {by}, where no tie is near",
                most / scale if scale else most,
            )
    return None


def _scale(wanted: Array) -> float:
    finite = np.abs(wanted.astype(np.float64))
    finite = finite[np.isfinite(finite)]
    return float(finite.max()) if finite.size else 0.0


def _distance(got: Array, wanted: Array) -> Array:
    """Of each element; infinite where one side alone is NaN, or infinities differ."""
    if got.shape != wanted.shape:
        return np.full(wanted.shape, np.inf)
    g, w = got.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.abs(g - w)
    same = (g == w) | (np.isnan(g) & np.isnan(w))
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
