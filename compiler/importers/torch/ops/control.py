"""Nested graphs: branches become relax.If, regions that only switch gradients off are inlined, a map is unrolled."""

from __future__ import annotations

from typing import Any

from tvm import relax

from .._context import Context, Expr
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


@converts("higher_order.map_impl", "higher_order.map")
def map_(c: Context, graph: Any, mapped: list[Expr], others: Any) -> list[Expr]:
    """graph for each element of the first axis, unrolled; the results are stacked."""
    count = c.static_shape_of(mapped[0], [0])[0]
    if not 0 < count <= _LONGEST_MAP:
        raise NotConvertible(f"a map over {count} elements (at most {_LONGEST_MAP} are unrolled)")
    rows: list[list[Expr]] = []
    for i in range(count):
        parts = [c.reshape(c.slice(x, 0, i, 1), c.shape(x)[1:]) for x in mapped]
        values = c.walk(graph, [*parts, *others])
        rows.append([c.reshape(value, [1, *c.shape(value)]) for value in values])
    return [c.emit(OP.concat(list(column), axis=0)) if count > 1 else column[0] for column in zip(*rows)]
