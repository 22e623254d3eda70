"""Loops in the IR that only the run can end: the one place that makes and reads them.

    opened = call_dps_packed("loop.open", (condition?, trip count?, initial values..., json), (bool, int64, values...))
    closed = If(opened[0]) { the body; (go on, values..., slices..., int64 [1]) } else { "loop.skip" of the same types }
    n      = tensor_to_shape(closed[-1]), bound by a match_cast      # iterations, where nothing else tells how many there were
    whole  = call_dps_packed("loop.stack", (closed[k], json), [n, *slice])

`opened` stands for what the body takes: a flag, the iteration's number and the carried values. The `If` on the flag is the loop: its first
branch is the body, its second only has the same type. Why an If and not a function for the body: a branch sees the values and the symbols
around it, every pass walks branches already, and none moves a binding out of one; a function would need its captures and its symbols as
parameters, and TVM inlines and outlines functions by rules of its own. The markers are opaque to all passes; `plan/` reads them as one step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

__all__ = ["LoopMark", "OpenLoop", "close_loop", "open_loop", "read_loop_mark", "stack_slices"]

PREFIX = "loop."
_CALL = tvm.ir.Op.get("relax.call_dps_packed")
Emit = Callable[[Any], Any]


@dataclass(frozen=True)
class OpenLoop:
    """What the body starts from: `flag` makes the If, `number` is the iteration (int64, rank 0), `values` are the carried ones."""

    name: str
    flag: relax.Expr
    number: relax.Expr
    values: list[relax.Expr]


@dataclass(frozen=True)
class LoopMark:
    """One marker as the plan reads it: kind "open", "skip" or "stack"; the condition and the trip count may be absent."""

    kind: str
    args: list[relax.Expr]
    condition: bool
    trips: bool
    name: str


def open_loop(
    emit: Emit, name: str, condition: relax.Expr | None, trips: relax.Expr | None, start: Sequence[relax.Expr]
) -> OpenLoop:
    """Begin a loop. `condition` bool and `trips` int64, both of rank 0 (None: true, no limit); `name` is the loop's alone."""
    types = [relax.TensorType([], "bool"), relax.TensorType([], "int64"), *[value.ty for value in start]]
    given = [each for each in (condition, trips) if each is not None]
    opened = emit(
        _mark("open", name, [*given, *start], types, condition=condition is not None, trips=trips is not None)
    )
    flag, number, *values = [emit(relax.TupleGetItem(opened, k)) for k in range(len(types))]
    return OpenLoop(name, flag, number, values)


def close_loop(loop: OpenLoop, body: relax.SeqExpr, types: Sequence[Any], skip: Callable[[Any], Any]) -> relax.If:
    """The loop's If. `types` are those of the body's results; `skip` puts an expression into a block of bindings of its own."""
    return relax.If(loop.flag, body, skip(_mark("skip", loop.name, [], list(types))))


def stack_slices(loop: OpenLoop, number: int, slices: relax.Expr, extent: Any) -> relax.Call:
    """The slices that result `number` of the loop gives in each of its `extent` iterations, along a new first axis."""
    out = relax.TensorType(relax.ShapeExpr([extent, *slices.ty.shape.values]), str(slices.ty.dtype))
    return _mark("stack", f"{loop.name}#{number}", [slices], [out])


def read_loop_mark(expr: Any) -> LoopMark | None:
    """What the functions above put into `expr`; None if it is anything else."""
    if not isinstance(expr, relax.Call) or not _CALL.same_as(expr.op) or not isinstance(expr.args[0], relax.ExternFunc):
        return None
    symbol = str(expr.args[0].global_symbol)
    if not symbol.startswith(PREFIX):
        return None
    fields = list(expr.args[1])
    meta = json.loads(str(fields[-1].value))
    return LoopMark(symbol[len(PREFIX) :], fields[:-1], meta["condition"], meta["trips"], meta["name"])


def _mark(
    kind: str, name: str, args: list[Any], types: list[Any], *, condition: bool = False, trips: bool = False
) -> relax.Call:
    meta = {"condition": condition, "name": name, "trips": trips}
    text = tvm.ir.StringImm(json.dumps(meta, sort_keys=True, separators=(",", ":")))
    return relax.op.call_dps_packed(PREFIX + kind, relax.Tuple([*args, text]), types if len(types) > 1 else types[0])
