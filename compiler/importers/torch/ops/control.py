"""Nested graphs: branches become relax.If, loops the plan's loop, regions that only switch gradients off are inlined."""

from __future__ import annotations

from typing import Any

import torch
from tvm import relax

from .._context import Context, Expr, is_size
from .._loops import call_graph, run_loop
from .._registry import NotConvertible, converts

OP = relax.op
_LONGEST_MAP = 64


@converts("higher_order.cond")
def cond(c: Context, predicate: Any, true_graph: Any, false_graph: Any, operands: Any = ()) -> list[Expr]:
    if isinstance(predicate, bool):
        return list(c.walk(true_graph if predicate else false_graph, operands))
    test = c.reshape(c.cast(predicate, "bool"), [])
    branches = [_branch(c, graph, operands) for graph in (true_graph, false_graph)]
    both = c.emit(relax.If(test, *branches))
    return [c.emit(relax.TupleGetItem(both, i)) for i in range(len(c.result))]


def _branch(c: Context, graph: Any, operands: Any) -> Any:
    """The graph as an expression with bindings of its own, that refers to the operands directly."""
    c.bb._begin_binding_block()
    values = c.walk(graph, operands)
    kept = []
    for i, value in enumerate(values):
        kept.append(c.cast(c.tensor(value, c.out_dtype(i)), c.out_dtype(i)))
    result = c.bb.emit(relax.Tuple(kept)) if c.node is not None else None
    return relax.SeqExpr([c.bb._end_block()], result)


@converts("higher_order.wrap_with_set_grad_enabled")
def grad_region(c: Context, enabled: bool, graph: Any, *operands: Any) -> list[Any]:
    return list(c.walk(graph, operands))


@converts("higher_order.with_effects")
def with_effects(c: Context, token: Any, operator: Any, *arguments: Any) -> list[Any]:
    """A check of a factorisation, which raises in torch where a matrix is singular; here the result is not finite then."""
    if str(operator) != "aten._linalg_check_errors.default":
        raise NotConvertible(f"the effects of {operator}")
    return [token]


@converts("higher_order.map_impl", "higher_order.map")
def map_(c: Context, graph: Any, mapped: list[Expr], others: Any) -> list[Expr]:
    """graph for each element of the first axis; the results are stacked. Unrolled where there are few elements."""
    count = c.shape(mapped[0])[0]
    if isinstance(count, int) and 0 < count <= _LONGEST_MAP:
        return _unrolled_map(c, graph, mapped, others, count)

    def body(number: Expr, _: list[Expr]) -> tuple[None, list[Expr], list[Expr]]:
        with c.noise.iteration(number):
            values = call_graph(c, graph, [*_rows(c, mapped, number), *others])
        return None, [], [c.tensor(value, c.out_dtype(i)) for i, value in enumerate(values)]

    return run_loop(c, body, [], trips=count)[1]


def _unrolled_map(c: Context, graph: Any, mapped: list[Expr], others: Any, count: int) -> list[Expr]:
    rows: list[list[Expr]] = []
    for i in range(count):
        parts = [c.reshape(c.slice(x, 0, i, 1), c.shape(x)[1:]) for x in mapped]
        with c.noise.iteration(i):
            values = c.walk(graph, [*parts, *others])
        rows.append([c.reshape(value, [1, *c.shape(value)]) for value in values])
    return [c.emit(OP.concat(list(column), axis=0)) if count > 1 else column[0] for column in zip(*rows)]


def _rows(c: Context, tensors: list[Expr], number: Expr) -> list[Expr]:
    return [c.take(x, number, 0) for x in tensors]


@converts("higher_order.scan")
def scan(c: Context, graph: Any, start: list[Any], sources: list[Expr], others: Any = ()) -> list[Expr]:
    """graph(carried..., rows...) -> (carried..., results...) along the first axis of the sources."""
    count = len(start)

    def body(number: Expr, carried: list[Expr]) -> tuple[None, list[Expr], list[Expr]]:
        with c.noise.iteration(number):
            values = call_graph(c, graph, [*carried, *_rows(c, sources, number), *others])
        kept = [c.tensor(value, c.dtype(first)) for value, first in zip(values, carried)]
        return None, kept, [c.tensor(value, c.out_dtype(count + i)) for i, value in enumerate(values[count:])]

    first = [_carried(c, value) for value in start]
    last, rows = run_loop(c, body, first, trips=c.shape(sources[0])[0])
    return [*last, *rows]


@converts("higher_order.while_loop")
def while_loop(c: Context, test: Any, step: Any, start: Any, others: Any = ()) -> list[Any]:
    """step on the carried values as long as test holds. Integers among them travel as tensors."""
    first = [_carried(c, value) for value in start]
    begin = _condition(c, test, [*start, *others], None)

    def body(number: Expr, carried: list[Expr]) -> tuple[Expr, list[Expr], list[Expr]]:
        with c.noise.iteration(number):
            values = call_graph(c, step, [*carried, *others])
        kept = [c.tensor(value, c.dtype(before)) for value, before in zip(values, carried)]
        next_values = [value if is_size(value) or isinstance(value, int) else kept[i] for i, value in enumerate(values)]
        return _condition(c, test, [*next_values, *others], number), kept, []

    last, _ = run_loop(c, body, first, condition=begin)
    return [_size(c, i, value) for i, value in enumerate(last)]


def _condition(c: Context, test: Any, arguments: list[Any], done: Expr | None) -> Expr:
    """Whether another iteration follows on that of number `done`, or the first one."""
    with c.noise.iteration(0) if done is None else c.noise.iteration(done, after=1):
        return c.reshape(c.tensor(call_graph(c, test, arguments)[0], "bool"), [])


def _carried(c: Context, value: Any) -> Expr:
    if isinstance(value, bool):
        return c.const(value, "bool")
    if isinstance(value, int) or is_size(value):
        return c.tensor(value, "int64")
    if isinstance(value, float):
        raise NotConvertible("it carries a Python float: make it a tensor")
    return value


def _size(c: Context, i: int, value: Expr) -> Any:
    """Result i of the node: the size that torch has for it, or the tensor."""
    fake = c.result[i]
    return c.bind_symbol(fake.node.expr, value, "carried") if isinstance(fake, torch.SymInt) else value
