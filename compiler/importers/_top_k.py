"""Order along an axis as calls of the kernel top_k: the first k elements of each sorted line, or the one at a place in it. For all importers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import relax, tirx

from ..passes._kernel_call import make_kernel_call

__all__ = ["first_of_axis", "first_of_lines", "place_in_lines"]


def first_of_lines(x: Any, axis: int, k: Any, *, largest: bool, name: str) -> relax.Call:
    """(values, positions) of the first `k` elements, an extent, of each line in ascending order, or with `largest` in
    descending order: NaN is the largest value, ties stand by position. Positions are int64."""
    return _call(x, axis, k, {"largest": int(largest)}, name)


def first_of_axis(
    emit: Callable[[relax.Expr], Any], x: Any, axis: int, k: Any, *, largest: bool, name: str
) -> list[Any]:
    """[values, positions] of the same, each emitted by itself."""
    both = emit(first_of_lines(x, axis, k, largest=largest, name=name))
    return [emit(relax.TupleGetItem(both, i)) for i in range(2)]


def place_in_lines(x: Any, axis: int, pick: str, *, place: int = 0, name: str) -> relax.Call:
    """(value, position) of one element of each line, with an extent of 1 along the axis: `pick` is "kth" (the one at `place`, from 0,
    of the ascending line), "median" (the lower of two; NaN where there is one) or "nanmedian" (of what is not NaN)."""
    return _call(x, axis, 1, {"largest": 0, "pick": pick, "k": place}, name)


def _call(x: Any, axis: int, extent: Any, attrs: Mapping[str, int | str], name: str) -> relax.Call:
    shape: Sequence[Any] = [
        (tirx.IntImm("int64", extent) if isinstance(extent, int) else extent) if d == axis else size
        for d, size in enumerate(x.ty.shape.values)
    ]
    outs = [relax.TensorType(shape, dtype) for dtype in (str(x.ty.dtype), "int64")]
    return make_kernel_call("top_k", [x], outs, {"axis": axis, **attrs}, name=name)
