"""What values an integer input accepts: found from the operators that use it as an index, or as a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from ._places import operator_name
from ._signature import Signature

__all__ = ["input_ranges"]

# Operators whose result holds only values of their first argument.
_SAME_VALUES = frozenset(
    "aten." + name
    for name in (
        "view.default reshape.default _unsafe_view.default unsqueeze.default squeeze.dim squeeze.default squeeze.dims clone.default "
        "alias.default transpose.int permute.default expand.default slice.Tensor select.int _to_copy.default to.dtype "
        "contiguous.default flatten.using_ints t.default repeat.default flip.default detach.default unbind.int split.Tensor"
    ).split()
)
# Operators that index: the position of the indexed tensor, that of the index, the axis' position or a fixed axis.
_INDEXERS: dict[str, tuple[int, int, str]] = {
    "aten.embedding.default": (0, 1, "0"),
    "aten.embedding_bag.default": (0, 1, "0"),
    "aten.embedding_bag.padding_idx": (0, 1, "0"),
    "aten._embedding_bag.default": (0, 1, "0"),
    "aten._embedding_bag_forward_only.default": (0, 1, "0"),
    "aten.index_select.default": (0, 2, "arg"),
    "aten.gather.default": (0, 2, "arg"),
    "aten.scatter.src": (0, 2, "arg"),
    "aten.scatter.value": (0, 2, "arg"),
    "aten.take.default": (0, 1, "all"),
}


def input_ranges(program: ExportedProgram, signature: Signature) -> dict[str, tuple[float, float]]:
    """Inclusive bounds by input name: 0 to rows - 1 of what it indexes, the bounds of a size that is read from it, 0 and 1 of a mask."""
    inputs = {entry.name: entry.name for entry in signature.placeholders if entry.kind == "input"}
    origin: dict[fx.Node, str] = {}
    found: dict[str, tuple[float, float]] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in inputs and not _is_float(node):
            origin[node] = inputs[node.name]
        elif node.op == "call_function":
            name = operator_name(node)
            if (name in _SAME_VALUES or name == "getitem") and node.args and node.args[0] in origin:
                origin[node] = origin[node.args[0]]
            for source, bounds in _uses(node, name, origin, program):
                low, high = found.get(source, bounds)
                found[source] = (max(low, bounds[0]), min(high, bounds[1]))
    return found


def _uses(
    node: fx.Node, name: str, origin: dict[fx.Node, str], program: ExportedProgram
) -> list[tuple[str, tuple[float, float]]]:
    if name in _INDEXERS:
        table, index, axis = _INDEXERS[name]
        source = node.args[index] if len(node.args) > index else None
        if not isinstance(source, fx.Node) or source not in origin:
            return []
        fake: Any = node.args[table].meta["val"]  # type: ignore[union-attr]
        size = fake.numel() if axis == "all" else fake.shape[int(node.args[1]) if axis == "arg" else 0]  # type: ignore[arg-type]
        return [(origin[source], (0, _lowest(size, program) - 1))]
    if name in ("aten.index.Tensor", "aten.index_put.default"):
        fake = node.args[0].meta["val"]  # type: ignore[union-attr]
        pairs = enumerate(node.args[1])  # type: ignore[arg-type]
        return [
            (origin[i], (0, _lowest(fake.shape[a], program) - 1))
            for a, i in pairs
            if isinstance(i, fx.Node) and i in origin
        ]
    if name in ("aten.item.default", "aten._local_scalar_dense.default") and node.args[0] in origin:
        value = node.meta.get("val")
        bounds = program.range_constraints.get(value.node.expr) if isinstance(value, torch.SymInt) else None
        if bounds is not None:
            return [(origin[node.args[0]], (max(float(bounds.lower), -8.0), min(float(bounds.upper), 8.0)))]  # type: ignore[index]
    if node.args and node.args[0] in origin and _is_complement(node, name):
        return [(origin[node.args[0]], (0, 1))]  # type: ignore[index]
    if name == "aten.one_hot.default" and node.args[0] in origin and int(node.args[1]) > 0:  # type: ignore[arg-type]
        return [(origin[node.args[0]], (0, int(node.args[1]) - 1))]  # type: ignore[index, arg-type]
    return []


def _is_complement(node: fx.Node, name: str) -> bool:
    """Whether it is 1 - x in floats, as of an attention mask, whose zeros become large negative numbers."""
    return name == "aten.rsub.Scalar" and node.args[1:] in ((1,), (1.0,)) and _is_float(node)


def _lowest(size: Any, program: ExportedProgram) -> int:
    """The smallest value that the size takes: an index must fit it."""
    if isinstance(size, torch.SymInt):
        bounds = program.range_constraints.get(size.node.expr)
        return max(1, int(bounds.lower)) if bounds is not None else 1
    return int(size)


def _is_float(node: fx.Node) -> bool:
    fake = node.meta.get("val")
    return isinstance(fake, torch.Tensor) and fake.dtype.is_floating_point
