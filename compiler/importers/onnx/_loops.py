"""Loops that the run ends: the body is converted once, and again with symbols for the extents that it turns out to change."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from tvm import relax, tirx

from ...ir._loops import OpenLoop, close_loop, hide_value, open_loop, show_value, stack_slices
from ._dims import Dim
from ._exprs import constant
from ._node import Node
from ._values import Value

__all__ = ["LoopBody", "Results", "run_loop"]


Shape = tuple[Dim, ...]


@dataclass
class Results:
    """What one iteration gives: whether another follows (None: yes), the carried values, the slices to be stacked."""

    condition: Value | None
    carried: list[Value]
    slices: list[Value]
    carried_shapes: list[Shape] = field(
        default_factory=list
    )  # the shapes that the body declares for the carried values (None: unknown)
    slice_shapes: list[Shape] = field(default_factory=list)  # and for the slices

    @property
    def all(self) -> list[Value]:
        return [*([self.condition] if self.condition is not None else []), *self.carried, *self.slices]


LoopBody = Callable[[Value, list[Value]], Results]


class _Changes(Exception):
    """The body changes these extents (carried value, axis) of what it carries."""

    def __init__(self, axes: set[tuple[int, int]]) -> None:
        super().__init__()
        self.axes = axes


class _Replaces(Exception):
    """The body gives carried value `number`, of which it reads nothing, this type and shape, which its start has not."""

    def __init__(self, number: int, dtype: str, shape: Shape) -> None:
        super().__init__()
        self.number = number
        self.dtype = dtype
        self.shape = shape


def run_loop(
    n: Node,
    body: LoopBody,
    start: list[Value],
    *,
    trips: Value | None,
    condition: Value | None,
    extent: Dim | None = None,
    unread: Collection[int] = (),
) -> Results | None:
    """The carried values after the last iteration, and all slices along a new first axis. None if the body holds refused operators.

    The loop ends after `trips` iterations (int64, one element; None: no limit), before the first one that `condition` or the body's
    condition forbids. `extent`: the number of iterations where it is known not to depend on a condition. An extent that the body
    changes becomes a symbol, and the body is converted again. `unread`: carried values of which the body reads nothing; these may
    start as anything, if every run iterates at least once, which it checks.
    """
    graph, math = n.graph, n.math
    for value in start:
        if value.items is not None or value.absent:
            raise n.refuse("that carries a sequence or an optional, and whose end is only known at run time")
    entries, assumed, bound = _copied(graph.unsupported.entries), list(math.assumed), dict(graph._bound_dims)
    go = None if condition is None else n.reshape(n.cast(graph.expr(condition), "bool"), [])
    limit = None if trips is None else n.reshape(n.cast(graph.expr(trips), "int64"), [])
    # What an earlier conversion of a loop around this one found: else each level would be converted twice for each time of the one around.
    axes = [(k, a) for k, a in graph.loop_axes.get(n.place, []) if k < len(start) and a < start[k].rank]
    while True:
        try:
            return _attempt(n, body, start, go, limit, extent, axes, unread)
        except (_Changes, _Replaces) as found:
            if isinstance(found, _Changes):
                axes = graph.loop_axes[n.place] = sorted({*axes, *found.axes})
            else:
                _check_iterates(n, go, limit)
                zeros = n.broadcast_to(n.scalar_const(0, found.dtype), found.shape)
                start = [graph.wrap(zeros, n.place) if k == found.number else v for k, v in enumerate(start)]
            graph.unsupported.entries, math.assumed, graph._bound_dims = _copied(entries), list(assumed), dict(bound)


def _copied(entries: dict[tuple[str, str], list[str]]) -> dict[tuple[str, str], list[str]]:
    return {key: list(places) for key, places in entries.items()}


def _check_iterates(n: Node, go: Any, limit: Any) -> None:
    if go is not None:
        n.check(lambda g: g(), go, says="must iterate at least once: what it gives otherwise has another shape")
    if limit is not None:
        n.check(
            lambda count: count() > 0,
            limit,
            says="must iterate at least once: what it gives otherwise has another shape",
        )


def _attempt(
    n: Node,
    body: LoopBody,
    start: list[Value],
    go: Any,
    limit: Any,
    extent: Dim | None,
    axes: list[tuple[int, int]],
    unread: Collection[int],
) -> Results | None:
    """Convert the body with new symbols for the extents of `axes`. Raises _Changes if there are more."""
    graph, math = n.graph, n.math
    before, outer, assumed = len(graph.unsupported.entries), set(math.local), list(math.assumed)
    loop = open_loop(n.emit, n.place, go, limit, [graph.expr(v) for v in start], axes)
    body_results: list[Results] = []
    shapes: list[Shape] = []  # of the slices

    def convert() -> list[Value]:
        results = body(_number(n, loop), _carried_values(n, loop.values, loop.extents, start, axes))
        body_results.append(results)
        if len(graph.unsupported.entries) == before and not any(v.poison for v in results.all):
            local = math.local - outer
            _check_carried(n, start, results, local, axes, unread)
            shapes.extend(_slice_shapes(n, results, local))
        return results.all

    block, _ = graph.in_block(convert)
    results = body_results[0]
    if len(graph.unsupported.entries) > before or any(v.poison for v in results.all):
        return None
    if results.condition is not None and results.condition.const is not None and results.condition.const.all():
        results.condition = None
    sealed = graph.seal(block, partial(_finish, n, loop, start, results, shapes, axes))
    math.assumed = assumed  # what the body checks holds only where it ran
    types = [field.ty for field in sealed.body.fields]
    closed = graph.bb.emit(close_loop(loop, sealed, types, partial(_as_branch, n)), "loop")
    return _results(n, loop, closed, start, axes, extent if results.condition is None else None)


def _carried_values(
    n: Node, values: list[Any], extents: Any, start: list[Value], axes: list[tuple[int, int]]
) -> list[Value]:
    """Carried values with their types; the extents that iterations change are bound to new symbols first."""
    symbols = n.graph.bind_tensor(extents, len(axes), f"{n.place}_extents") if axes else []
    out = []
    for k, (value, x) in enumerate(zip(start, values, strict=True)):
        shape = list(value.shape)
        for (number, axis), symbol in zip(axes, symbols, strict=True):
            if number == k:
                shape[axis] = symbol
        if any(number == k for number, _ in axes):
            x = n.emit(show_value(x, [_expr(d) for d in shape], value.dtype))
        out.append(Value(value.dtype, tuple(shape), expr=x, origin=n.place))
    return out


def _number(n: Node, loop: OpenLoop) -> Value:
    """The iteration's number as a symbol, so that slices at it have a known extent, and as a tensor."""
    symbol = n.graph.bind_tensor(n.reshape(loop.number, [1]), 1, f"{n.place}_iteration")
    number = Value.of_symbols(np.array(symbol[0], dtype=object), "int64", n.place)
    number.expr = loop.number
    return number


def _check_carried(
    n: Node,
    start: list[Value],
    results: Results,
    local: set[str],
    axes: list[tuple[int, int]],
    unread: Collection[int],
) -> None:
    """Carried values keep their types and ranks, or raise _Replaces if the body does not read them. An extent that the body declares to be fixed, and that only an iteration knows, is
    checked by every iteration; any other that is not the same raises _Changes."""
    changes: set[tuple[int, int]] = set()
    for k, (value, result) in enumerate(zip(start, results.carried, strict=True)):
        if result.items is not None or result.absent:
            raise n.refuse("that carries a sequence or an optional, and whose end is only known at run time")
        kept = value.dtype == result.dtype and value.rank == result.rank
        if k in unread and not kept and not any(_is_local(d, local) for d in result.shape):
            raise _Replaces(k, result.dtype, result.shape)
        if value.dtype != result.dtype:
            raise n.broken(f"starts with {value.dtype} where its body gives {result.dtype}")
        if value.rank != result.rank:
            raise n.refuse(
                f"whose end is only known at run time, and whose body carries shape {_text(value.shape)} on as {_text(result.shape)}"
            )
        declared = (
            results.carried_shapes[k]
            if k < len(results.carried_shapes) and len(results.carried_shapes[k]) == value.rank
            else (None,) * value.rank
        )
        for axis, (a, b) in enumerate(zip(value.shape, result.shape, strict=True)):
            if (k, axis) in axes or n.math.same(a, b):
                continue
            if declared[axis] == a and _is_local(b, local) and n.math.compare("==", a, b) is None:
                _assume(n, a, b)
            else:
                changes.add((k, axis))
    if changes:
        raise _Changes(changes)


def _slice_shapes(n: Node, results: Results, local: set[str]) -> list[Shape]:
    """The slices' shapes as they are known outside: what only an iteration knows must be what the body declares."""
    shapes = []
    for number, each in enumerate(results.slices):
        if each.items is not None or each.absent:
            raise n.refuse("that collects sequences or optionals, and whose end is only known at run time")
        declared = results.slice_shapes[number] if number < len(results.slice_shapes) else ()
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


def _finish(
    n: Node, loop: OpenLoop, start: list[Value], results: Results, shapes: list[Shape], axes: list[tuple[int, int]]
) -> list[Any]:
    graph = n.graph
    go = constant(np.array(True)) if results.condition is None else graph.expr(results.condition)
    carried = []
    for k, (result, first) in enumerate(zip(results.carried, start, strict=True)):
        changing = {axis for number, axis in axes if number == k}
        shape = [result.shape[axis] if axis in changing else d for axis, d in enumerate(first.shape)]
        x = graph.with_extents(graph.expr(result), shape)
        carried.append(n.emit(hide_value(x)) if changing else x)
    return [
        n.reshape(n.cast(go, "bool"), []) if results.condition is not None else go,
        *carried,
        *[graph.with_extents(graph.expr(v), s) for v, s in zip(results.slices, shapes, strict=True)],
        *([loop.extents] if loop.extents is not None else []),
        n.reshape(loop.number, [1]),
    ]


def _as_branch(n: Node, expression: Any) -> Any:
    """An expression as the body of a branch."""
    made: list[Any] = []

    def emit() -> list[Value]:
        made.append(n.graph.bb.emit(expression))
        return []

    block, _ = n.graph.in_block(emit)
    return relax.SeqExpr([block], made[0])


def _results(
    n: Node, loop: OpenLoop, closed: Any, start: list[Value], axes: list[tuple[int, int]], extent: Dim | None
) -> Results:
    items = [n.emit(relax.TupleGetItem(closed, k)) for k in range(len(closed.ty.fields))]
    count = len(start)
    carried = _carried_values(n, items[1 : 1 + count], items[-2], start, axes)
    slices = items[1 + count : -2 if axes else -1]
    if slices and extent is None:
        extent = n.graph.bind_tensor(items[-1], 1, f"{n.place}_iterations")[0]
    whole = [n.emit(stack_slices(loop, k, each, _expr(extent))) for k, each in enumerate(slices)]
    return Results(None, carried, [n.graph.wrap(x, n.place) for x in whole])


def _expr(extent: Dim) -> Any:
    return tirx.IntImm("int64", extent) if isinstance(extent, int) else extent


def _text(shape: tuple[Dim, ...]) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"
