"""Loop nests around bodies: collapsed, parallel where the work is worth it, innermost loops that LLVM vectorises with their tails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.sym import Analyzer

from ._body import Access, Body
from ._stages import as_int64

__all__ = ["PARALLEL_WORK", "collapse", "constant", "nest", "product", "seq"]

# Operations below which a loop stays on one thread: waking another costs about as much as this many.
PARALLEL_WORK = 1 << 16
_CHUNK_WORK = 1 << 14  # operations of one parallel task at least
_ENOUGH_TASKS = 64

Range = tuple[Any, Any]  # (variable, extent), both int64


def constant(value: Any) -> int | None:
    """The value of an integer expression that is a constant."""
    if isinstance(value, int):
        return value
    return int(value.value) if isinstance(value, tirx.IntImm) else None


def product(extents: Sequence[Any]) -> Any:
    """The product as an int64 expression."""
    known = 1
    result: Any = None
    for extent in extents:
        value = constant(extent)
        if value is not None:
            known *= value
        else:
            wide = as_int64(extent)
            result = wide if result is None else result * wide
    if result is None:
        return tirx.IntImm("int64", known)
    return result if known == 1 else result * tirx.IntImm("int64", known)


def seq(stmts: Sequence[Any]) -> Any:
    """One statement of several."""
    return stmts[0] if len(stmts) == 1 else tirx.SeqStmt(list(stmts))


def collapse(loops: Sequence[Range], body: Body, analyzer: Analyzer) -> list[list[int]]:
    """Groups of adjacent loops (by number) that every access of `body` walks as if they were one: the outer's stride is the
    inner's times the inner's extent. Loops whose variable is used for anything but addressing stay alone."""
    groups: list[list[int]] = []
    for number, (var, _) in enumerate(loops):
        if groups and var not in body.pinned and loops[groups[-1][-1]][0] not in body.pinned:
            inner = loops[number][1]
            if all(_walks_on(access, groups[-1][-1], number, inner, analyzer) for access in body.accesses):
                groups[-1].append(number)
                continue
        groups.append([number])
    return groups


def _walks_on(access: Access, outer: int, inner: int, extent: Any, analyzer: Analyzer) -> bool:
    if access.strides is None:
        return True  # its variables are pinned, the others do not occur in it
    a, b = access.strides[outer], access.strides[inner]
    return bool(analyzer.can_prove_equal(a, b * extent))


def nest(
    loops: Sequence[Range],
    make: Callable[[], list[Any]],
    cost: float,
    *,
    inner_work: Any = 1,
) -> Any:
    """`make()`'s statements in `loops` (outermost first), each iteration worth `cost` * `inner_work` operations.

    Parallel if the work is known to be large; where symbols decide, at run time. `make` is called once for each copy.
    """
    extents = [extent for _, extent in loops]
    work = product([*extents, inner_work, max(1, round(cost))])
    known = constant(work)
    if not loops or (known is not None and known < PARALLEL_WORK):
        return _serial(loops, make())
    if known is not None:
        return _parallel(loops, make, cost, inner_work)
    large = tirx.GE(work, tirx.IntImm("int64", PARALLEL_WORK))
    return tirx.IfThenElse(large, _parallel(loops, make, cost, inner_work), _serial(loops, make()))


def _serial(loops: Sequence[Range], stmts: Sequence[Any]) -> Any:
    body = seq(stmts)
    for var, extent in reversed(loops):
        body = tirx.For(var, tirx.IntImm("int64", 0), extent, tirx.ForKind.SERIAL, body)
    return body


def _parallel(loops: Sequence[Range], make: Callable[[], list[Any]], cost: float, inner_work: Any) -> Any:
    """The fewest leading loops that give enough tasks become one parallel loop; a lone large loop is cut into chunks."""
    taken, tasks = 0, 1
    while taken < len(loops) and tasks < _ENOUGH_TASKS:
        tasks *= constant(loops[taken][1]) or 1
        taken += 1
    if taken == len(loops):
        inner = constant(inner_work)
        chunk = max(1, _CHUNK_WORK // max(1, round(cost) * (inner if inner is not None else 64)))
        if taken == 1:
            return _chunked(loops[0], make, chunk)
        last = constant(loops[-1][1])
        if last is not None and last > 2 * chunk:  # few long rows: cut them as well
            return _cut_rows(loops, make, chunk)
        if last is None or last > 8:  # the innermost loop stays a loop of its own, for vectors
            taken -= 1
    return _fused(loops[:taken], lambda: [_serial(loops[taken:], make())])


def _fused(loops: Sequence[Range], make: Callable[[], list[Any]]) -> Any:
    """One parallel loop over all of `loops`."""
    fused = tirx.Var("task", "int64")
    binds = []
    rest: Any = fused
    for var, extent in reversed(loops):
        outermost = var is loops[0][0]
        part = rest if outermost else tirx.truncmod(rest, extent)
        binds.append(tirx.Bind(var, part))
        rest = tirx.truncdiv(
            rest, extent
        )  # nothing is negative, which TVM cannot know of a symbol: its floordiv is costly to lower
    total = product([extent for _, extent in loops])
    body = seq([*reversed(binds), *make()])
    return tirx.For(fused, tirx.IntImm("int64", 0), total, tirx.ForKind.PARALLEL, body)


def _cut_rows(loops: Sequence[Range], make: Callable[[], list[Any]], chunk: int) -> Any:
    """Parallel over the leading loops and over chunks of the last one."""
    var, extent = loops[-1]
    size, part = tirx.IntImm("int64", chunk), tirx.Var("part", "int64")

    def row() -> list[Any]:
        begin = part * size
        return [tirx.For(var, begin, tirx.min(size, extent - begin), tirx.ForKind.SERIAL, seq(make()))]

    return _fused([*loops[:-1], (part, tirx.floordiv(extent + (size - 1), size))], row)


def _chunked(loop: Range, make: Callable[[], list[Any]], chunk: int) -> Any:
    var, extent = loop
    size = tirx.IntImm("int64", chunk)
    task = tirx.Var("task", "int64")
    begin = task * size
    length = tirx.min(size, extent - begin)
    inner = tirx.For(var, begin, length, tirx.ForKind.SERIAL, seq(make()))
    return tirx.For(
        task, tirx.IntImm("int64", 0), tirx.floordiv(extent + (size - 1), size), tirx.ForKind.PARALLEL, inner
    )
