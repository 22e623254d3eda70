"""Shapes and orders of axes that a node asks for, as converters and shape arithmetic both read them."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from .._dims import Dim
from .._node import Node

__all__ = ["AXES_INPUT", "flattened", "permutation", "reduced_axes", "reshaped"]

# Schema versions from which `axes` is an input.
AXES_INPUT = {"ReduceSum": 13}


def reshaped(n: Node, have: Sequence[Dim], target: Sequence[Dim]) -> list[Dim]:
    """Of Reshape: 0 copies an extent (unless allowzero is set), and one may be -1 for what is left."""
    dims: list[Dim] = []
    for i, d in enumerate(target):
        if isinstance(d, int) and d == 0 and not n.flag("allowzero"):
            if i >= len(have):
                raise n.broken(f"copies dimension {i} of an input of rank {len(have)}")
            d = have[i]
        dims.append(d)
    return _infer_dim(n, have, dims)


def flattened(n: Node, have: Sequence[Dim]) -> list[Dim]:
    """Of Flatten: the extents before its axis and those from there on, multiplied."""
    rank, axis = len(have), n.int_attr("axis", 1)
    if not -rank <= axis <= rank:
        raise n.broken(f"axis {axis} is out of range for rank {rank}")
    axis += rank if axis < 0 else 0
    return [n.math.product(have[:axis]), n.math.product(have[axis:])]


def permutation(n: Node, rank: int) -> list[int]:
    """Of Transpose."""
    perm: list[int] = n.ints_attr("perm", list(range(rank))[::-1])
    if sorted(perm) != list(range(rank)):
        raise n.broken(f"has perm {perm} for rank {rank}")
    return perm


def reduced_axes(n: Node) -> list[int] | None:
    """The reduced axes, sorted; None: nothing is reduced (noop_with_empty_axes)."""
    rank = n.rank(0)
    if n.version >= AXES_INPUT.get(n.op, 18):
        given = n.ints(1, "axes") if n.has(1) else []
        if not given and n.flag("noop_with_empty_axes"):
            return None
    else:
        given = n.ints_attr("axes", [])
    return sorted(n.axes(given, rank)) if given else list(range(rank))


def _infer_dim(n: Node, have: Sequence[Dim], dims: list[Dim]) -> list[Dim]:
    """Replace the one -1 of a target shape by what is left of the elements; check the product."""
    unknown = [i for i, d in enumerate(dims) if isinstance(d, int) and d == -1]
    if len(unknown) > 1 or any(isinstance(d, int) and d < -1 for d in dims):
        raise n.broken(f"has the impossible shape {dims}")
    total = n.math.product(have)
    if not unknown:
        wanted = n.math.product(dims)
        if isinstance(total, int) and isinstance(wanted, int) and total != wanted:
            raise n.broken(f"turns {total} elements into shape {dims}")
        if not n.math.same(total, wanted):
            _equate(n, have, dims)
        return dims
    # Cancel factors that stand on both sides before dividing: n * 12 * 64 into [n, 12, -1].
    rest = list(have)
    known: list[Dim] = []
    for i, d in enumerate(dims):
        if i == unknown[0]:
            continue
        match = next((k for k, r in enumerate(rest) if n.math.same(r, d)), None)
        if match is None:
            known.append(d)
        else:
            rest.pop(match)
    top, bottom = n.math.product(rest), n.math.product(known)
    if isinstance(bottom, int) and bottom == 0:
        raise n.broken(f"cannot infer -1 in shape {dims}")
    if isinstance(top, int) and isinstance(bottom, int) and top % bottom:
        raise n.broken(f"does not fit shape {dims} to an input of shape {list(have)}")
    out = list(dims)
    out[unknown[0]] = n.math.floordiv(top, bottom)
    return out


def _equate(n: Node, have: Sequence[Dim], dims: list[Dim]) -> None:
    """Products that are not known to be equal: a symbol must take the value that makes them so."""
    left, right = list(have), list(dims)
    for d in list(left):
        match = next((k for k, r in enumerate(right) if n.math.same(r, d)), None)
        if match is not None:
            right.pop(match)
            left.pop(next(k for k, r in enumerate(left) if r is d))
    a, b = n.math.product(left), n.math.product(right)
    for x, y in ((a, b), (b, a)):
        parts = left if x is a else right
        variables = [p for p in parts if isinstance(p, tirx.Var)]
        if len(variables) == 1 and isinstance(y, int):
            rest = n.math.product([p for p in parts if p is not variables[0]])
            if isinstance(rest, int) and rest and y % rest == 0:
                n.math.require_same(variables[0], y // rest)
    n.math.require_same(a, b)
