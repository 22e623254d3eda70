"""Loops in the IR that only the run can end: the one place that makes and reads them.

    opened = call_dps_packed("loop.open", (condition?, trip count?, initial values..., json), (bool, int64, values...))
    closed = If(opened[0]) { the body; (go on, values..., slices..., int64 [1]) } else { "loop.skip" of the same types }
    n      = tensor_to_shape(closed[-1]), bound by a match_cast      # iterations, where nothing else tells how many there were
    whole  = call_dps_packed("loop.stack", (closed[k], json), [n, *slice])

`opened` stands for what the body takes: a flag, the iteration's number and the carried values. The `If` on the flag is the loop: its first
branch is the body, its second only has the same type. Why an If and not a function for the body: a branch sees the values and the symbols
around it, every pass walks branches already, and none moves a binding out of one; a function would need its captures and its symbols as
parameters, and TVM inlines and outlines functions by rules of its own. The markers are opaque to all passes; `plan/` reads them as one step.

Extents that iterations change. No type outside of the body can name them, so such a value travels as an int64 [1] that stands for it:

    opened[k] is given its type in the body by "loop.value", once a match_cast has named the extents in tensor_to_shape(opened[2]);
    "loop.carry" hides the next value again; behind the loop the same pair, tensor_to_shape(closed[-2]) and "loop.value", tells what came of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from ._opaque import read_opaque_call

__all__ = [
    "LoopMark",
    "OpenLoop",
    "close_loop",
    "hide_value",
    "is_loop",
    "open_loop",
    "read_loop_mark",
    "show_value",
    "stack_slices",
]

PREFIX = "loop."
_HIDDEN = relax.TensorType([1], "int64")
Emit = Callable[[Any], Any]


Axes = Sequence[tuple[int, int]]  # of carried values whose extents iterations change: (number of the value, axis)


@dataclass(frozen=True)
class OpenLoop:
    """What the body starts from: `flag` makes the If, `number` is the iteration (int64, rank 0), `values` are the carried ones or, where
    their shape changes, what stands for them; `extents` (int64 [len(axes)], None without) are those of `axes`."""

    name: str
    flag: relax.Expr
    number: relax.Expr
    values: list[relax.Expr]
    extents: relax.Expr | None


@dataclass(frozen=True)
class LoopMark:
    """One marker as the plan reads it: kind "open", "skip", "stack", "value" or "carry"; the condition and the trip count may be absent."""

    kind: str
    args: list[relax.Expr]
    condition: bool
    trips: bool
    name: str
    axes: list[tuple[int, int]]


def open_loop(
    emit: Emit,
    name: str,
    condition: relax.Expr | None,
    trips: relax.Expr | None,
    start: Sequence[relax.Expr],
    axes: Axes = (),
) -> OpenLoop:
    """Begin a loop. `condition` bool and `trips` int64, both of rank 0 (None: true, no limit); `name` is for profiles."""
    changing = {k for k, _ in axes}
    types = [relax.TensorType([], "bool"), relax.TensorType([], "int64")]
    types += [relax.TensorType([len(axes)], "int64")] if axes else []
    types += [_HIDDEN if k in changing else value.ty for k, value in enumerate(start)]
    given = [each for each in (condition, trips) if each is not None]
    has = {"condition": condition is not None, "trips": trips is not None}
    opened = emit(_mark("open", name, [*given, *start], types, axes=axes, **has))
    items = [emit(relax.TupleGetItem(opened, k)) for k in range(len(types))]
    first = 3 if axes else 2
    return OpenLoop(name, items[0], items[1], items[first:], items[2] if axes else None)


def close_loop(loop: OpenLoop, body: relax.SeqExpr, types: Sequence[Any], skip: Callable[[Any], Any]) -> relax.If:
    """The loop's If. `types` are those of the body's results; `skip` puts an expression into a block of bindings of its own."""
    return relax.If(loop.flag, body, skip(_mark("skip", loop.name, [], list(types))))


def show_value(hidden: relax.Expr, shape: Sequence[Any], dtype: str) -> relax.Call:
    """The carried value that `hidden` stands for, where its extents have names."""
    return _mark("value", "", [hidden], [relax.TensorType(relax.ShapeExpr(list(shape)), dtype)])


def hide_value(value: relax.Expr) -> relax.Call:
    """What stands for a value whose shape differs from that which the iteration was given."""
    return _mark("carry", "", [value], [_HIDDEN])


def stack_slices(loop: OpenLoop, number: int, slices: relax.Expr, extent: Any) -> relax.Call:
    """The slices that result `number` of the loop gives in each of its `extent` iterations, along a new first axis."""
    out = relax.TensorType(relax.ShapeExpr([extent, *slices.ty.shape.values]), str(slices.ty.dtype))
    return _mark("stack", f"{loop.name}#{number}", [slices], [out])


def read_loop_mark(expr: Any) -> LoopMark | None:
    """What the functions above put into `expr`; None if it is anything else."""
    read = read_opaque_call(expr, PREFIX)
    if read is None:
        return None
    kind, values, meta = read
    axes = [(int(k), int(axis)) for k, axis in meta["axes"]]
    return LoopMark(kind, values, meta["condition"], meta["trips"], meta["name"], axes)


def is_loop(expr: relax.If) -> bool:
    """Whether an If is a loop: its second branch is the "loop.skip"."""
    seq = expr.false_branch
    bindings = [binding for block in seq.blocks for binding in block.bindings] if isinstance(seq, relax.SeqExpr) else []
    mark = read_loop_mark(bindings[0].value) if bindings else None
    return mark is not None and mark.kind == "skip"


def _mark(
    kind: str,
    name: str,
    args: list[Any],
    types: list[Any],
    *,
    condition: bool = False,
    trips: bool = False,
    axes: Axes = (),
) -> relax.Call:
    meta = {"axes": [list(each) for each in axes], "condition": condition, "name": name, "trips": trips}
    text = tvm.ir.StringImm(json.dumps(meta, sort_keys=True, separators=(",", ":")))
    return relax.op.call_dps_packed(PREFIX + kind, relax.Tuple([*args, text]), types if len(types) > 1 else types[0])
