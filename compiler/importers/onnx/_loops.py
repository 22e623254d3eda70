"""Loops that the run ends: the body is converted once, over carried values of a fixed shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from tvm import relax, tirx

from ...passes._loops import OpenLoop, close_loop, open_loop, stack_slices
from ._dims import Dim
from ._node import Node, constant
from ._values import Value

__all__ = ["LoopBody", "Results", "run_loop"]


Shape = tuple[Dim, ...]


@dataclass
class Results:
    """What one iteration gives: whether another follows (None: yes), the carried values, the slices to be stacked."""

    condition: Value | None
    carried: list[Value]
    slices: list[Value]
    declared: list[Shape] = field(default_factory=list)  # what the body says of the slices' shapes

    @property
    def all(self) -> list[Value]:
        return [*([self.condition] if self.condition is not None else []), *self.carried, *self.slices]


LoopBody = Callable[[Value, list[Value]], Results]


def run_loop(
    n: Node,
    body: LoopBody,
    start: list[Value],
    *,
    trips: Value | None,
    condition: Value | None,
    extent: Dim | None = None,
) -> Results | None:
    """The carried values after the last iteration, and all slices along a new first axis. None if the body holds refused operators.

    The loop ends after `trips` iterations (int64, one element; None: no limit), before the first one that `condition` or the body's
    condition forbids. `extent`: the number of iterations where it is known not to depend on a condition.
    """
    graph, math = n.graph, n.math
    for value in start:
        if value.items is not None or value.absent:
            raise n.refuse("that carries a sequence or an optional, and whose end is only known at run time")
    before, outer, assumed = len(graph.unsupported.entries), set(math.local), list(math.assumed)
    go = None if condition is None else n.reshape(n.cast(graph.expr(condition), "bool"), [])
    limit = None if trips is None else n.reshape(n.cast(graph.expr(trips), "int64"), [])
    loop = open_loop(n.emit, n.place, go, limit, [graph.expr(v) for v in start])
    held: list[Results] = []
    shapes: list[Shape] = []  # of the slices

    def convert() -> list[Value]:
        inputs = [Value(v.dtype, v.shape, expr=x, origin=n.place) for v, x in zip(start, loop.values, strict=True)]
        results = body(_number(n, loop), inputs)
        held.append(results)
        if len(graph.unsupported.entries) == before and not any(v.poison for v in results.all):
            _check_carried(n, start, results.carried, math.local - outer)
            shapes.extend(_slice_shapes(n, results, math.local - outer))
        return results.all

    block, _ = graph.in_block(convert)
    results = held[0]
    if len(graph.unsupported.entries) > before or any(v.poison for v in results.all):
        return None
    if results.condition is not None and results.condition.const is not None and results.condition.const.all():
        results.condition = None
    sealed = graph.seal(block, partial(_finish, n, loop, start, results, shapes))
    math.assumed = assumed  # what the body checks holds only where it ran
    closed = graph.bb.emit(
        close_loop(loop, sealed, [field.ty for field in sealed.body.fields], partial(_alone, n)), "loop"
    )
    return _results(n, loop, closed, len(start), results, extent if results.condition is None else None)


def _number(n: Node, loop: OpenLoop) -> Value:
    """The iteration's number as a symbol, so that slices at it have a known extent, and as a tensor."""
    symbol = n.graph.bind_tensor(n.reshape(loop.number, [1]), 1, f"{n.place}_iteration")
    number = Value.of_symbols(np.array(symbol[0], dtype=object), "int64", n.place)
    number.expr = loop.number
    return number


def _check_carried(n: Node, start: list[Value], results: list[Value], local: set[str]) -> None:
    """Carried values keep their types. An extent that only an iteration knows is checked to stay as it was by every iteration."""
    for value, result in zip(start, results, strict=True):
        if result.items is not None or result.absent:
            raise n.refuse("that carries a sequence or an optional, and whose end is only known at run time")
        if value.dtype != result.dtype:
            raise n.broken(f"starts with {value.dtype} where its body gives {result.dtype}")
        same = value.rank == result.rank
        for a, b in zip(value.shape, result.shape):
            if same and not n.math.same(a, b):
                same = _is_local(b, local) and n.math.compare("==", a, b) is None
                if same:
                    _assume(n, a, b)
        if not same:
            raise n.refuse(
                f"whose end is only known at run time, and whose body carries shape {_text(value.shape)} on as {_text(result.shape)}"
            )


def _slice_shapes(n: Node, results: Results, local: set[str]) -> list[Shape]:
    """The slices' shapes as they are known outside: what only an iteration knows must be what the body declares."""
    shapes = []
    for number, each in enumerate(results.slices):
        if each.items is not None or each.absent:
            raise n.refuse("that collects sequences or optionals, and whose end is only known at run time")
        declared = results.declared[number] if number < len(results.declared) else ()
        if len(declared) != each.rank:
            declared = (None,) * each.rank
        shapes.append(tuple(_outer_extent(n, d, known, local) for d, known in zip(each.shape, declared, strict=True)))
    return shapes


def _outer_extent(n: Node, d: Dim, declared: Dim | None, local: set[str]) -> Dim:
    if not _is_local(d, local):
        return d
    for p, q in n.math.assumed:
        for a, b in ((p, q), (q, p)):
            if not _is_local(b, local) and n.math.certain(d, a):
                return b
    if declared is None:
        raise n.refuse("that collects results whose size only an iteration knows")
    _assume(n, declared, d)
    return declared


def _assume(n: Node, outside: Dim, inside: Dim) -> None:
    n.graph.check_equal(outside, inside)
    n.math.assumed.append((outside, inside))


def _is_local(d: Dim, local: set[str]) -> bool:
    return not isinstance(d, int) and any(v.name in local for v in tirx.analysis.undefined_vars(d))


def _finish(n: Node, loop: OpenLoop, start: list[Value], results: Results, shapes: list[Shape]) -> list[Any]:
    graph = n.graph
    go = constant(np.array(True)) if results.condition is None else graph.expr(results.condition)
    carried = [graph.with_extents(graph.expr(r), s.shape) for r, s in zip(results.carried, start, strict=True)]
    return [
        n.reshape(n.cast(go, "bool"), []) if results.condition is not None else go,
        *carried,
        *[graph.with_extents(graph.expr(v), s) for v, s in zip(results.slices, shapes, strict=True)],
        n.reshape(loop.number, [1]),
    ]


def _alone(n: Node, expression: Any) -> Any:
    """An expression as the body of a branch."""
    made: list[Any] = []

    def emit() -> list[Value]:
        made.append(n.graph.bb.emit(expression))
        return []

    block, _ = n.graph.in_block(emit)
    return relax.SeqExpr([block], made[0])


def _results(n: Node, loop: OpenLoop, closed: Any, count: int, body: Results, extent: Dim | None) -> Results:
    items = [n.emit(relax.TupleGetItem(closed, k)) for k in range(len(closed.ty.fields))]
    carried, slices = items[1 : 1 + count], items[1 + count : -1]
    if slices and extent is None:
        extent = n.graph.bind_tensor(items[-1], 1, f"{n.place}_iterations")[0]
    whole = [n.emit(stack_slices(loop, k, each, _expr(extent))) for k, each in enumerate(slices)]
    return Results(None, [n.graph.wrap(x, n.place) for x in carried], [n.graph.wrap(x, n.place) for x in whole])


def _expr(extent: Dim) -> Any:
    return tirx.IntImm("int64", extent) if isinstance(extent, int) else extent


def _text(shape: tuple[Dim, ...]) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"
