"""Loops that the run ends: torch's while_loop, scan and map as the loop of ir/_loops.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from tvm import relax

from ...ir._loops import close_loop, open_loop, stack_slices
from ._context import Context, Expr, as_expr, is_size
from ._registry import NotConvertible
from ._symbols import Dim

__all__ = ["call_graph", "run_loop"]

# (number of the iteration, carried tensors) -> (whether another follows (None: yes), carried tensors, slices)
LoopBody = Callable[[Expr, list[Expr]], "tuple[Expr | None, list[Expr], list[Expr]]"]


def run_loop(
    c: Context, body: LoopBody, start: Sequence[Expr], *, condition: Expr | None = None, trips: Dim | None = None
) -> tuple[list[Expr], list[Expr]]:
    """The carried tensors after the last iteration, and the slices of all `trips` iterations along a new first axis.

    The carried tensors keep their dtypes and shapes. Slices need `trips`, and a body that does not end the loop.
    """
    limit = None if trips is None else c.reshape(c.sizes_tensor([trips]), [])
    loop = open_loop(c.emit, c.node.name if c.node is not None else "loop", condition, limit, start)
    body_results: list[list[Expr]] = []

    def convert() -> Any:
        go, carried, slices = body(loop.number, list(loop.values))
        values = [c.const(True, "bool") if go is None else c.reshape(c.cast(go, "bool"), [])]
        values += [_same_type(c, value, first) for value, first in zip(carried, start, strict=True)]
        values += [*slices, c.reshape(loop.number, [1])]
        body_results.append(values)
        return relax.Tuple(values)

    inside = _block(c, convert)
    types = [value.ty for value in body_results[0]]
    closed = c.emit(close_loop(loop, inside, types, lambda skip: _block(c, lambda: skip)))
    items = [c.emit(relax.TupleGetItem(closed, k)) for k in range(len(types))]
    carried, slices = items[1 : 1 + len(start)], items[1 + len(start) : -1]
    return carried, [c.emit(stack_slices(loop, k, part, as_expr(trips))) for k, part in enumerate(slices)]


def _block(c: Context, make: Callable[[], Any]) -> Any:
    """What `make` emits, as the body of a branch, with the expression that it returns as the result."""
    c.bb._begin_binding_block()
    try:
        result = c.bb.emit(make())
    finally:
        block = c.bb._end_block()
    return relax.SeqExpr([block], result)


def _same_type(c: Context, value: Expr, first: Expr) -> Expr:
    if c.dtype(value) != c.dtype(first) or c.rank(value) != c.rank(first):
        raise NotConvertible(f"it carries {first.ty} on as {value.ty}")
    for size, before in zip(c.shape(value), c.shape(first)):
        if not c.same_dims([size], [before]):
            raise NotConvertible(f"it carries shape {c.shape(first)} on as {c.shape(value)}")
    return value


def call_graph(c: Context, graph: fx.GraphModule, arguments: Sequence[Any]) -> list[Any]:
    """The graph's results; a size among its placeholders is given the value of the argument (a tensor of rank 0, or a size)."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    given = list(arguments)
    for k, (node, value) in enumerate(zip(placeholders, given, strict=True)):
        fake = node.meta.get("val")
        if isinstance(fake, torch.Tensor) and not all(c.symbols.knows(size) for size in fake.shape):
            raise NotConvertible("it carries a tensor whose shape changes")
        if not isinstance(fake, torch.SymInt):
            continue
        if isinstance(value, int) or is_size(value):
            c.symbols.define(fake.node.expr, value)
        else:
            given[k] = c.bind_symbol(fake.node.expr, value, node.name)
    results = c.walk(graph, given)
    if not all(isinstance(value, (bool, int, float, relax.Expr)) for value in results):
        raise NotConvertible("its body holds operators that are not supported")
    return list(results)
