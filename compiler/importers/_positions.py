"""Where the greatest or the least element of a line stands, for all importers: the first NaN is either, as in numpy and torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import te, tirx

__all__ = ["position_of_extreme"]


def position_of_extreme(
    t: Any, shape: Sequence[Any], axis: int, *, keepdims: bool, greatest: bool, last: bool = False
) -> Any:
    """int64 [shape]: the position along the axis, of equal elements the first, or the last."""
    dtype = str(t.dtype)
    real = dtype.startswith(("float", "bfloat"))

    def better(a: tuple[Any, Any], b: tuple[Any, Any]) -> Any:
        (p, v), (q, w) = a, b
        wins = v > w if greatest else v < w
        tie = v == w
        if real:
            wins = tirx.any(wins, tirx.all(_is_nan(v), tirx.Not(_is_nan(w))))
            tie = tirx.any(tie, tirx.all(_is_nan(v), _is_nan(w)))
        # Position -1 is the identity: it never wins.
        take = tirx.any(wins, tirx.all(tie, p > q if last else p < q))
        return tirx.all(p >= _int(0), tirx.any(q < _int(0), take))

    def combine(a: Any, b: Any) -> Any:
        first = better((a[0], a[1]), (b[0], b[1]))
        return tirx.Select(first, a[0], b[0]), tirx.Select(first, a[1], b[1])

    zero = tirx.Cast(dtype, tirx.IntImm("int32", 0))
    reducer = te.comm_reducer(combine, lambda t0, t1: (_int(-1), zero), name="arg_reduce")
    k = te.reduce_axis((0, t.shape[axis]), name="k")

    def element(*i: Any) -> Any:
        rest = list(i)
        rest[axis : axis + keepdims] = [k]
        return reducer((tirx.Cast("int64", k), t(*rest)), axis=k)

    pair = te.compute(shape, element, name="arg")
    return te.compute(shape, lambda *i: pair[0](*i), name="position")


def _is_nan(value: Any) -> Any:
    """Not `value != value`: the simplifier takes that for False."""
    kind = str(value.ty.dtype)
    return tirx.isnan(value if kind in ("float32", "float64") else tirx.Cast("float32", value))


def _int(value: int) -> Any:
    return tirx.IntImm("int64", value)
