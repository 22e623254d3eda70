"""Extents that an operator's inputs share. A converter reads its tensors by one of them, so all have to have it: where only a run can tell,
the run is checked.

A shape is written as blanks between extents: a letter is the same wherever it stands, `4h` is four of them, a number itself, `.` any
extent, and `*r`, first or last, as many as there are, the same wherever it stands. `one` is one number, of rank 0 or 1; `one|o` is either.
None: nothing is said of that input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ._dims import Dim
from ._node import Node

__all__ = ["check_shapes"]

Shapes = Sequence[str | None]

_HEADS = ("b h s d", "b k t d", "b k t e", None, "b k p d", "b k p e")
_LOSS = ("n c *r", "n *r", "c")
_LIST = (None, "k")  # shapes, axes
_AXES = (None, "one|k")
_CONV = ("n . *x", "o . *k", "o")
_SHAPES: dict[str, Shapes] = {
    "Clip": (None, "one", "one"),
    "Conv": _CONV,
    "ConvInteger": ("n . *x", "o . *k", "one", "one|o"),
    "CumSum": (None, "one"),
    "DFT": (None, "one", "one"),
    "DeformConv": ("n . *x", "o . *k", "n . *y", "o", "n . *y"),
    "Dropout": (None, "one", "one"),
    "Expand": _LIST,
    "FlexAttention": _HEADS[:3],
    "GRU": ("s b i", "d 3h i", "d 3h h", "d 6h", "b", "d b h"),
    "GridSample": ("n . *x", "n *y"),
    "InstanceNormalization": ("n c *r", "c", "c"),
    "LSTM": ("s b i", "d 4h i", "d 4h h", "d 8h", "b", "d b h", "d b h", "d 3h"),
    "NegativeLogLikelihoodLoss": _LOSS,
    "NonMaxSuppression": ("b n 4", "b . n", "one", "one", "one"),
    "OneHot": (None, "one", "2"),
    "QLinearConv": ("n . *x", "one", "one", "o . *k", "one|o", "one|o", "one", "one", "o"),
    "RNN": ("s b i", "d h i", "d h h", "d 2h", "b", "d b h"),
    "Range": ("one", "one", "one"),
    "Reshape": _LIST,
    "RoiAlign": ("*x", "r 4", "r"),
    "Slice": (None, "k", "k", "k", "k"),
    "SoftmaxCrossEntropyLoss": _LOSS,
    "Split": _LIST,
    "Squeeze": _AXES,
    "TopK": (None, "1"),
    "Trilu": (None, "one"),
    "Unsqueeze": _AXES,
}
_BATCH_FIRST = {"s b i": "b s i", "d b h": "b d h"}  # of recurrent layers with layout 1

# Shapes that attributes, versions or ranks decide.
_DECIDED: dict[str, Callable[[Node], Shapes]] = {
    "Attention": lambda n: _HEADS if n.rank(0) == 4 else ("b . .", "b t .", "b t ."),
    "BatchNormalization": lambda n: ("n c *r", *["c"] * 4) if n.rank(0) > 1 else (None, *["1"] * 4),
    "CenterCropPad": lambda n: (None, str(len(n.ints_attr("axes", None) or n.shape(0)))),
    "ConvTranspose": lambda n: ("n . *x", ". o *k", f"{n.int_attr('group', 1)}o"),
    "GroupNormalization": lambda n: ("n c *r", *[str(n.int_attr("num_groups")) if n.version == 18 else "c"] * 2),
    "MaxUnpool": lambda n: ("*x", "*x", str(n.rank(0))),
    "Pad": lambda n: (None, "2a", "one", "a") if n.has(3) else (None, str(2 * n.rank(0)), "one"),
    "Resize": lambda n: _resized(n),
    "RotaryEmbedding": lambda n: _rotated(n),
    "Tile": lambda n: (None, str(n.rank(0))),
    "Upsample": lambda n: (None, str(n.rank(0))),
    **dict.fromkeys(
        ["LSTM", "GRU", "RNN"],
        lambda n: [
            _BATCH_FIRST.get(text, text) if text and n.int_attr("layout", 0) else text for text in _SHAPES[n.op]
        ],
    ),
}
_MICROSOFT: dict[str, Shapes] = {
    "BiasGelu": ("*x d", "d"),
    "FastGelu": ("*x d", "d"),
    "FusedConv": _CONV,
    "SkipLayerNormalization": ("*x d", None, "d", "d", "d"),
    "SkipSimplifiedLayerNormalization": ("*x d", None, "d", "d"),
}


def check_shapes(n: Node, domain: str) -> None:
    """Refuse the node, or have each run checked, where its inputs do not fit each other. Raises ValueError, Broken."""
    bound_dims: dict[str, list[Dim]] = {}
    multiples: list[tuple[int, str, Dim]] = []
    for i, text in enumerate(_shapes_of(n, domain)):
        if text is not None and n.has(i) and n.value(i).items is None:
            if "|" in text or text == "one":
                if n.rank(i) == 0 or (n.rank(i) == 1 and n.math.same(n.shape(i)[0], 1)):
                    continue
                if text == "one":
                    raise n.broken(f"has input {i} of shape {list(n.shape(i))}, expected one number")
                text = text.partition("|")[2]
            _match(n, i, text.split(), bound_dims, multiples)
    for count, letter, extent in multiples:
        if letter in bound_dims:
            n.math.require_same(extent, n.math.mul(bound_dims[letter][0], count))


def _shapes_of(n: Node, domain: str) -> Shapes:
    if domain:
        return _MICROSOFT.get(n.op, ()) if domain == "com.microsoft" else ()
    if n.op.startswith("Reduce"):
        return _AXES
    decided = _DECIDED.get(n.op)
    return decided(n) if decided is not None else _SHAPES.get(n.op, ())


def _resized(n: Node) -> Shapes:
    """A list that is empty is one that is left out, and the region is read in one mode alone."""
    count = len(n.ints_attr("axes", None) or n.shape(0))
    lists = [None if not n.has(i) or n.math.same(n.shape(i)[0] if n.rank(i) else 1, 0) else str(count) for i in (2, 3)]
    if n.version < 11:
        return (None, str(count))
    crops = n.str_attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    return (None, str(2 * count) if crops else None, *lists)


def _rotated(n: Node) -> Shapes:
    """The caches have a number for each pair that is rotated."""
    heads = n.int_attr("num_heads", 0)
    depth = n.shape(0)[-1] if n.rank(0) == 4 else n.math.floordiv(n.shape(0)[-1], heads) if heads else None
    rotated = n.int_attr("rotary_embedding_dim", 0) or depth
    half = str(rotated // 2) if isinstance(rotated, int) else "h"
    cache = f"p {half}" if n.has(3) else f"p q {half}"
    return (None, cache, cache)


def _match(
    n: Node, i: int, parts: list[str], bound_dims: dict[str, list[Dim]], multiples: list[tuple[int, str, Dim]]
) -> None:
    dims = list(n.shape(i))
    at = next((k for k, part in enumerate(parts) if part.startswith("*")), None)
    rest = parts.pop(at) if at is not None else ""
    if len(dims) < len(parts) or (not rest and len(dims) > len(parts)):
        raise n.broken(f"has input {i} of rank {len(dims)}, expected {len(parts)}{' or more' if rest else ''}")
    if at is not None:
        many = dims[at : at + len(dims) - len(parts)]
        del dims[at : at + len(many)]
        _require_same(n, i, many, bound_dims.setdefault(rest, many))
    for part, extent in zip(parts, dims, strict=True):
        letter = part.lstrip("0123456789")
        if not letter:
            n.math.require_same(extent, int(part))
        elif letter != part:
            multiples.append((int(part[: -len(letter)]), letter, extent))
        elif part != ".":
            _require_same(n, i, [extent], bound_dims.setdefault(part, [extent]))


def _require_same(n: Node, i: int, have: list[Dim], want: list[Dim]) -> None:
    if len(have) != len(want):
        raise n.broken(f"has input {i} of rank {n.rank(i)}, which does not fit the others")
    for a, b in zip(have, want, strict=True):
        n.math.require_same(a, b)
