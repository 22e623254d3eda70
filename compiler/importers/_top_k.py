"""Order along an axis: the first k elements of each sorted line, or the one at a place in it. For all importers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, tirx

from ..ir import top_k

__all__ = ["first_of_axis", "place_in_lines"]


def first_of_axis(
    emit: Callable[[relax.Expr], Any], x: Any, axis: int, k: Any, *, largest: bool, name: str
) -> list[Any]:
    """[values, positions] of the first `k` elements, an extent, of each line in ascending order, or with `largest` in
    descending order: NaN is the largest value, ties stand by position. Positions are int64."""
    return _both(emit, top_k(x, _extent(k), axis=axis, largest=int(largest), place=name))


def place_in_lines(
    emit: Callable[[relax.Expr], Any], x: Any, axis: int, pick: str, *, place: int = 0, name: str
) -> list[Any]:
    """[value, position] of one element of each line, with an extent of 1 along the axis: `pick` is "kth" (the one at `place`, from 0,
    of the ascending line), "median" (the lower of two; NaN where there is one) or "nanmedian" (of what is not NaN)."""
    return _both(emit, top_k(x, _extent(1), axis=axis, largest=0, pick=pick, k=place, place=name))


def _extent(k: Any) -> relax.ShapeExpr:
    return relax.ShapeExpr([tirx.IntImm("int64", k) if isinstance(k, int) else k])


def _both(emit: Callable[[relax.Expr], Any], call: relax.Call) -> list[Any]:
    both = emit(call)
    return [emit(relax.TupleGetItem(both, i)) for i in range(2)]
