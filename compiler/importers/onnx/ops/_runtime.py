"""Integers that only a run computes where ONNX lets them decide a shape: normalised by generated code, then bound to new symbols.

Everything that depends on the data (negative axes, -1 in a shape, clamping) is done on small int64 tensors; what becomes an extent
is bound to a symbol, whose minimum of 0 the runtime checks. So an impossible request is given the value -1: the run refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from maas_rt._plan import MAX_RANK

from ..._run_checks import RunCheck
from .._dims import Dim
from .._exprs import shape_expr
from .._node import Node
from ._te import imm

__all__ = ["axes_mask", "bind_vector", "check_axes", "int64", "invalid_unless", "list_length", "pick", "vector"]


def int64(value: Any) -> Any:
    return imm(value, "int64") if isinstance(value, int) else tirx.Cast("int64", value)


def vector(
    n: Node, build: Callable[..., Sequence[Any]], *tensors: Any, dims: Sequence[Dim] = (), name: str = ""
) -> Any:
    """An int64 tensor of rank 1 whose elements are the expressions that build(*tensors, extents) gives.

    What several of them have in common is best a vector before them: written out in each, expressions grow with the square of a rank or
    faster, and so does the time to compile them."""

    def body(*args: Any) -> Any:
        items = [int64(e) for e in build(*args)]

        def element(i: Any) -> Any:
            out = items[-1]
            for k in range(len(items) - 2, -1, -1):
                out = tirx.Select(i == k, items[k], out)
            return out

        return te.compute((len(items),), element, name=name or "numbers")

    return n.te(body, *tensors, shape_expr(dims), name=name or "numbers")


def bind_vector(
    n: Node, build: Callable[..., Sequence[Any]], *tensors: Any, dims: Sequence[Dim] = (), count: int, says: str = ""
) -> list[Dim]:
    """New symbols for the `count` expressions of build; none for count 0. A run refuses negative ones: `says` what the operator is
    given then, where the number alone (as that of `invalid_unless`) would not tell."""
    if not count:
        return []
    numbers = vector(n, build, *tensors, dims=dims, name="extents")
    return n.graph.bind_tensor(numbers, count, n.place, RunCheck("refused", f"{n.graph.at} {says}") if says else None)


def pick(tensor: Any, index: int, size: int) -> Any:
    """Element of a tensor of rank 0 or 1 as int64."""
    del size
    return int64(tensor(index) if len(tensor.shape) else tensor())


def invalid_unless(condition: Any, value: Any) -> Any:
    return tirx.Select(condition, int64(value), imm(-1, "int64"))


def axes_mask(n: Node, i: int, count: int, rank: int) -> Any:
    """An int64 tensor with a 1 for each of `rank` axes that is one of the `count` (possibly negative) ones in input i, and a 0 for each other."""

    def build(axes: Any, _: Any) -> list[Any]:
        given = [pick(axes, k, count) for k in range(count)]
        return [tirx.any(*[a == wanted for a in given for wanted in (axis, axis - rank)]) for axis in range(rank)]

    return vector(n, build, n.x(i), name="axes_mask")


def check_axes(n: Node, i: int, rank: int, *, distinct: bool = True) -> None:
    """Each run refuses axes in input i that a tensor of this rank does not have, or, unless they need not be `distinct`, has twice."""
    count = list_length(n, i)
    if not count:
        return

    def legal(axes: Any) -> Any:
        at = [pick(axes, k, count) for k in range(count)]
        at = [tirx.Select(a < 0, a + rank, a) for a in at]
        pairs = [(a, b) for k, a in enumerate(at) for b in at[:k]] if distinct else []
        return tirx.all(*[c for a in at for c in (a >= 0, a < rank)], *[a != b for a, b in pairs])

    n.check(legal, n.x(i), says=f"is given axes that its input does not have{', or one twice' if distinct else ''}")


def list_length(n: Node, i: int, most: int = MAX_RANK) -> int:
    """Static number of elements of a list that a run computes: one for each axis, at most."""
    dims = n.shape(i)
    length = dims[0] if dims else 1
    if len(dims) > 1 or not isinstance(length, int):
        raise n.refuse(f"input {i} whose length is only known at run time")
    if length > most:
        raise n.refuse(f"input {i} as a list of {length} numbers that a run computes")
    return length
