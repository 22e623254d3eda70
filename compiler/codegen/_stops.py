"""Lets a run leave generated loops that take long: between iterations they ask, through the loader, whether it has to end.

Where loops are parallel the runtime asks between their tasks; this is for what lies within a task, and for loops that are not
parallel. A question costs some 25 ns, so it comes once in about _OFTEN operations, and only in functions that may have many more.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx

from ._nests import constant, seq
from ._stages import as_int64, children
from ._statements import StatementRewriter

__all__ = ["with_stops"]

_LONG = 1 << 22  # operations, of some nanoseconds each at most: what may pass without a question
_OFTEN = 1 << 18
_OPEN = (
    1 << 12
)  # iterations that a loop of open extent is taken to have inside of another; an outermost one may have any number
_SEARCH = 64  # the same for a while loop
_LANES = 4  # at a time
_COUNTED = frozenset({tirx.ForKind.SERIAL, tirx.ForKind.PARALLEL})


def with_stops(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """`func` (scheduled) with questions in its long loops; where the answer is yes it returns an error."""
    return _Stops().func(func)


class _Stops(StatementRewriter):
    """`gap` is how many operations the statement rewritten last does between two questions, or in all."""

    def __init__(self) -> None:
        self.gap = 0.0
        self.depth = 0

    def stmt(self, node: Any) -> Any:
        if isinstance(node, tirx.For):
            return self._loop(node)
        if isinstance(node, tirx.SeqStmt):
            parts, gaps = [], 0.0
            for each in node.seq:
                parts.append(self.stmt(each))
                gaps += self.gap
            self.gap = gaps
            return tirx.SeqStmt([each for each in parts if each is not None])
        if isinstance(node, tirx.IfThenElse):
            then = self.stmt(node.then_case)
            gap = self.gap
            otherwise = self.stmt(node.else_case) if node.else_case is not None else None
            self.gap = max(self.gap, gap) if otherwise is not None else gap
            return tirx.IfThenElse(node.condition, then, otherwise)
        if isinstance(node, tirx.While):
            loop = tirx.While(node.condition, self.stmt(node.body))
            self.gap *= _SEARCH
            return loop
        if isinstance(node, tirx.AttrStmt):
            return tirx.AttrStmt(node.node, node.attr_key, node.value, self.stmt(node.body))
        self.gap = _operations(node.value) if hasattr(node, "value") else 1.0
        return node

    def _loop(self, loop: Any) -> Any:
        self.depth += 1
        body = self.stmt(loop.body)
        self.depth -= 1
        iteration_cost = max(1.0, self.gap)
        known = _largest(loop.extent)
        times = known if known is not None else _OPEN if self.depth else 1 << 40
        if loop.kind == tirx.ForKind.VECTORIZED:
            times = max(1, times // _LANES)
        self.gap = iteration_cost * times
        if self.gap <= _LONG or loop.kind not in _COUNTED:
            return _rebuilt(loop, body)
        if iteration_cost >= _OFTEN:
            self.gap = iteration_cost
            return _rebuilt(loop, seq([_question(), body]))
        if loop.kind != tirx.ForKind.SERIAL:
            return _rebuilt(loop, body)
        self.gap = float(_OFTEN)
        return _in_parts(loop, body, max(1, int(_OFTEN // iteration_cost)))


def _largest(extent: Any) -> int | None:
    """The largest that a loop's extent can be, where that is a number."""
    if isinstance(extent, tirx.Min):
        known = [each for each in (_largest(extent.a), _largest(extent.b)) if each is not None]
        return min(known, default=None)
    return constant(extent)


def _operations(value: Any) -> float:
    """Of an expression; where what it reads lies is mostly found outside of the loop."""
    count, pending = 0, [value]
    while pending:
        node = pending.pop()
        count += 1
        if not isinstance(node, tvm.ir.TensorLoad):
            pending.extend(children(node))
    return float(count)


def _rebuilt(loop: Any, body: Any) -> Any:
    return tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, loop.thread_binding, loop.annotations)


def _in_parts(loop: Any, body: Any, size: int) -> Any:
    """The same iterations in the same order, `size` of them between two questions."""
    part = tirx.Var("part", "int64")
    done, extent = part * tirx.IntImm("int64", size), as_int64(loop.extent)
    kind = str(loop.loop_var.ty.dtype)
    begin, length = (
        loop.min + tirx.Cast(kind, done),
        tirx.Cast(kind, tirx.min(tirx.IntImm("int64", size), extent - done)),
    )
    inner = tirx.For(loop.loop_var, begin, length, loop.kind, body, loop.thread_binding, loop.annotations)
    count = tirx.floordiv(extent + tirx.IntImm("int64", size - 1), tirx.IntImm("int64", size))
    return tirx.For(part, tirx.IntImm("int64", 0), count, tirx.ForKind.SERIAL, seq([_question(), inner]))


def _question() -> Any:
    goes_on = tirx.EQ(tirx.call_extern("int32", "mrt_stopped"), tirx.IntImm("int32", 0))
    # The Python class names its first two parameters the wrong way round.
    return tirx.AssertStmt(goes_on, tvm.ir.StringImm("RuntimeError"), [tvm.ir.StringImm("the run has to end")])
