"""What a model asks of its own numbers (torch._check, torch._assert_async): each run refuses inputs that break it."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from .._conditions import text_of
from .._context import Context, Expr
from .._places import place_of
from .._registry import converts


@converts("aten._assert_async.default", "aten._assert_async.msg")
def assert_async(c: Context, x: Expr, assert_msg: str = "") -> None:
    c.require(x, f"the inputs break what the model asks{_at_place(c)}: {assert_msg or 'a truth that does not hold'}")


@converts("aten._functional_assert_async.msg")
def functional_assert_async(c: Context, x: Expr, assert_msg: str, dep_token: Any) -> Any:
    assert_async(c, x, assert_msg)
    return dep_token


@converts("aten._assert_scalar.default")
def assert_scalar(c: Context, x: Any, assert_msg: str) -> None:
    """Of sizes of the inputs alone nothing: these are the program's guards, which conditions of the model keep."""
    traced = c.fakes["x"]
    if not isinstance(traced, torch.SymBool) or isinstance(x, bool):
        return
    relation = traced.node.expr
    spans: dict[Any, Any] = {}
    for symbol in relation.free_symbols:
        spec = c.symbols.specs.get(c.symbols.variable(symbol))
        if spec is not None:
            spans[symbol] = ValueRanges(spec.min, 2**62 if spec.max is None else spec.max)
    if all(c.symbols.variable(symbol) in c.symbols.shapes for symbol in relation.free_symbols):
        return
    if len(spans) == len(relation.free_symbols) and bool(bound_sympy(relation, spans).lower):
        return  # the bounds of the symbols say it already
    c.require(
        x,
        f"the inputs break what the model asks of a number{_at_place(c)}: {_requirement_text(c, relation, assert_msg)}",
    )


def _at_place(c: Context) -> str:
    place = "" if c.node is None else place_of(c.node)  # torch gives a check the line of the number that it checks
    return f" at {place}" if place else ""


def _requirement_text(c: Context, relation: Any, message: str) -> str:
    if not message.startswith("Runtime assertion failed for expression"):
        return message
    symbols = list(relation.free_symbols)
    number = sympy.Symbol("number", integer=True)
    return text_of(relation.xreplace({symbols[0]: number}) if len(symbols) == 1 else relation, c.symbols)
