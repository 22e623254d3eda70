"""Extents that an operator's inputs share. A converter reads its tensors by one of them, so all have to have it: where only a run can tell,
the run is checked.

A shape is written as blanks between extents: a letter is the same wherever it stands, `4h` is four of them, a number itself, `.` any
extent, and `*r` as many as there are, the same wherever it stands. None: nothing is said of that input.
"""

from __future__ import annotations

from collections.abc import Sequence

from ._dims import Dim
from ._node import Node

__all__ = ["check_shapes"]

_HEADS = ("b h s d", "b k t d", "b k t e", None, "b k p d", "b k p e")
_LOSS = ("n c *r", "n *r", "c")
_SHAPES: dict[str, tuple[str | None, ...]] = {
    "DeformConv": ("n . *x", "o . *k", "n . *y", "o", "n . *y"),
    "FlexAttention": _HEADS[:3],
    "GRU": ("s b i", "d 3h i", "d 3h h", "d 6h", "b", "d b h"),
    "GridSample": ("n . *x", "n *y"),
    "LSTM": ("s b i", "d 4h i", "d 4h h", "d 8h", "b", "d b h", "d b h", "d 3h"),
    "MaxUnpool": ("*x", "*x"),
    "NegativeLogLikelihoodLoss": _LOSS,
    "NonMaxSuppression": ("b n 4", "b . n"),
    "OneHot": (None, None, "2"),
    "RNN": ("s b i", "d h i", "d h h", "d 2h", "b", "d b h"),
    "RoiAlign": ("*x", "r 4", "r"),
    "RotaryEmbedding": (None, "*c", "*c"),
    "SoftmaxCrossEntropyLoss": _LOSS,
}
_BATCH_FIRST = {"s b i": "b s i", "d b h": "b d h"}  # of recurrent layers with layout 1


def check_shapes(n: Node) -> None:
    """Refuse the node, or have each run checked, where its inputs do not fit each other. Raises ValueError, Broken."""
    bound: dict[str, list[Dim]] = {}
    multiples: list[tuple[str, Dim]] = []
    for i, text in enumerate(_shapes_of(n)):
        if text is not None and n.has(i) and n.value(i).items is None:
            _match(n, i, text.split(), bound, multiples)
    for text, extent in multiples:
        if text[1:] in bound:
            n.math.require_same(extent, n.math.mul(bound[text[1:]][0], int(text[0])))


def _shapes_of(n: Node) -> Sequence[str | None]:
    if n.op == "Attention":
        return _HEADS if n.rank(0) == 4 else ("b . .", "b t .", "b t .")
    shapes = _SHAPES.get(n.op, ())
    if n.op in ("LSTM", "GRU", "RNN") and n.int_attr("layout", 0):
        return [text and _BATCH_FIRST.get(text, text) for text in shapes]
    return shapes


def _match(n: Node, i: int, parts: list[str], bound: dict[str, list[Dim]], multiples: list[tuple[str, Dim]]) -> None:
    dims = list(n.shape(i))
    rest = parts.pop() if parts[-1].startswith("*") else ""
    if len(dims) < len(parts) or (not rest and len(dims) > len(parts)):
        raise n.broken(f"has input {i} of rank {len(dims)}, expected {len(parts)}{' or more' if rest else ''}")
    for part, extent in zip(parts, dims, strict=False):
        if part.isdigit():
            n.math.require_same(extent, int(part))
        elif part[0].isdigit():
            multiples.append((part, extent))
        elif part != ".":
            _same(n, i, [extent], bound.setdefault(part, [extent]))
    if rest:
        tail = dims[len(parts) :]
        _same(n, i, tail, bound.setdefault(rest, tail))


def _same(n: Node, i: int, have: list[Dim], want: list[Dim]) -> None:
    if len(have) != len(want):
        raise n.broken(f"has input {i} of rank {n.rank(i)}, which does not fit the others")
    for a, b in zip(have, want, strict=True):
        n.math.require_same(a, b)
