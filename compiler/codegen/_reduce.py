"""Nests of reductions: accumulators in registers, vectors along the axis that memory runs along.

Three forms. `rows`: the reduced axis is contiguous, so a vector of partial results runs along it and is folded at the end.
`columns`: the spatial axis is contiguous, so a vector of results runs along it, several rows at a time where they share operands (a
matrix product). `scalar`: one accumulator, for everything that neither fits (branches, pairs of results as in argmax).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.sym import Analyzer

from . import _math
from ._body import Body, BodyBuilder, dtype_of
from ._lowered import Range, lower_in_loops, zero
from ._nests import constant, nest, product, seq
from ._stages import Stage

__all__ = ["emit_reduction"]

_SERIAL, _VECTOR, _UNROLL = tirx.ForKind.SERIAL, tirx.ForKind.VECTORIZED, tirx.ForKind.UNROLLED
_ROWS = 4  # rows of a block of columns
_OPS = (tirx.Add, tirx.Mul, tirx.Max, tirx.Min, tirx.And, tirx.Or, tirx.BitwiseAnd, tirx.BitwiseOr, tirx.BitwiseXor)


@dataclass(frozen=True)
class _Combiner:
    """acc = op(acc, term), the form that may be accumulated in any order; `dtype` is the accumulator's."""

    op: Any
    term: Any
    dtype: str
    init: Any

    def apply(self, acc: Any, term: Any, builder: BodyBuilder) -> Any:
        if dtype_of(term) != self.dtype:
            term = tirx.Cast(self.dtype, term)
        if self.op in (tirx.Max, tirx.Min) and self.dtype.startswith(("float", "bfloat")):
            extreme = _math.nan_max if self.op is tirx.Max else _math.nan_min
            return extreme(builder.let(acc), builder.let(term), builder.let)
        return self.op(acc, term)

    def identity(self) -> Any:
        """What a partial result starts from: the initial value where it may count twice, else the operation's unit."""
        if self.op in (tirx.Add, tirx.BitwiseXor):
            return tirx.const(0, self.dtype)
        if self.op is tirx.Mul:
            return tirx.const(1, self.dtype)
        return self.init


def emit_reduction(stage: Stage, pulled: Mapping[Any, Stage], flat: Mapping[Any, Any], analyzer: Analyzer) -> Any:
    """The nest of a reduction stage."""
    return _Reduction(stage, pulled, flat, analyzer).emit()


class _Reduction:
    def __init__(self, stage: Stage, pulled: Mapping[Any, Stage], flat: Mapping[Any, Any], analyzer: Analyzer) -> None:
        self.stage, self.pulled, self.flat = stage, pulled, flat
        self.spatial = [(loop.index, loop.extent) for loop in stage.spatial]
        self.reduce = [(loop.index, loop.extent) for loop in stage.reduce]
        self.loops: list[Range] = [*self.spatial, *self.reduce]
        self.env = {loop.var: zero() if constant(loop.extent) == 1 else loop.index for loop in stage.loops}
        self.combiner = _combiner(stage)
        self.accs: list[Any] = []
        self.at: Any = tirx.IntImm("int64", 0)  # where in the accumulators a body reads and writes
        self.lowered = lower_in_loops(self.spatial, self.reduce, self._lower, analyzer)
        self.cost = self.lowered.body.cost + 1

    # ---- bodies ----------------------------------------------------------------------------------------------------

    def _lower(self, indices: Sequence[Any] | None, bound: Sequence[Any]) -> Body:
        """The update of the accumulators, and behind it in `accesses` the stores of the results."""
        builder = BodyBuilder(self.pulled, self.flat, self.loops, indices, bound)
        accs = self.accs or self._accumulators(1)
        for store, acc in zip(self.stage.stores, accs):
            builder.overrides[store.buffer] = builder.let(tirx.BufferLoad(acc, [self.at]))
        if self.combiner is not None:
            full = builder.env_of(self.stage, self.env)
            term = builder.let(builder.expr(self.combiner.term, full))
            values = [self.combiner.apply(builder.overrides[self.stage.stores[0].buffer], term, builder)]
        else:
            values = builder.values(self.stage, self.env)
        builder.flush()
        body = builder.body
        body.stmts += [tirx.BufferStore(acc, value, [self.at]) for acc, value in zip(accs, values)]
        for store in self.stage.stores:
            body.results.append(builder.store_index(store, self.stage, self.env))
        builder.flush()
        return body

    def _accumulators(self, size: int) -> list[Any]:
        types = [self.combiner.dtype] if self.combiner else [_value_type(store.buffer) for store in self.stage.stores]
        return [tirx.decl_buffer((size,), dtype, name="acc", scope="local") for dtype in types]

    def _initial(self) -> tuple[list[Any], list[Any]]:
        """(statements, values) of what the accumulators start from."""
        if self.combiner is not None and isinstance(self.combiner.init, (tirx.IntImm, tirx.FloatImm)):
            return [], [self.combiner.init]
        builder = BodyBuilder(self.pulled, self.flat, self.loops)
        values = [
            builder.let(builder.expr(_start(self.stage, number), self.env)) for number in range(len(self.stage.inits))
        ]
        if self.combiner is not None:
            values = [
                value if dtype_of(value) == self.combiner.dtype else tirx.Cast(self.combiner.dtype, value)
                for value in values
            ]
        builder.flush()
        return builder.body.stmts, values

    def _result(self, store: Any, index: Any, acc: Any, at: Any) -> Any:
        builder = BodyBuilder(self.pulled, self.flat, [])
        value = builder.stored(tirx.BufferLoad(acc, [at]), str(store.buffer.dtype))
        builder.flush()
        return seq([*builder.body.stmts, tirx.BufferStore(self.flat[store.buffer], value, [index])])

    # ---- forms -----------------------------------------------------------------------------------------------------

    def emit(self) -> Any:
        spatial, reduce = self.lowered.spatial, self.lowered.reduce
        if self.combiner is None or self.lowered.body.branches or not reduce:
            return self._nest(spatial, self._scalar)
        rows = self._runs_along(reduce[-1][0], result_stride=0)
        columns = bool(spatial) and self._runs_along(spatial[-1][0], result_stride=1)
        if rows and columns:  # the longer of the two; what is not known counts as long
            inner, across = constant(reduce[-1][1]), constant(spatial[-1][1])
            rows = (inner is None or inner >= 32) if across is None or across >= 8 else True
        if rows:
            return self._nest(spatial, self._row)
        return self._columns() if columns else self._nest(spatial, self._scalar)

    def _nest(self, loops: Sequence[Range], make: Any) -> Any:
        work = product([extent for _, extent in self.lowered.reduce])
        return nest(loops, make, self.cost, inner_work=work) if loops else seq(make())

    def _runs_along(self, var: Any, result_stride: int) -> bool:
        """Whether every access moves by 0 or 1 element along the loop, some load by 1, and the results by `result_stride`."""
        if var in self.lowered.body.pinned:
            return False
        accesses = self.lowered.body.accesses
        strides = [self.lowered.stride(access, var) for access in accesses]
        loads = [stride for access, stride in zip(accesses, strides) if not access.is_store]
        results = [stride for access, stride in zip(accesses, strides) if access.is_store]
        return all(s in (0, 1) for s in loads) and 1 in loads and all(s == result_stride for s in results)

    def _width(self, size: int) -> int:
        """Elements of `size` bytes of the accumulator's type."""
        assert self.combiner is not None
        return size // max(1, int(tvm.DataType(self.combiner.dtype).itemsize))

    def _in_reduce_loops(self, loops: Sequence[Range], stmts: Sequence[Any]) -> Any:
        body = seq(stmts)
        for var, extent in reversed(loops):
            body = tirx.For(var, zero(), extent, _SERIAL, body)
        return body

    def _scalar(self) -> list[Any]:
        """acc = init; for each point of the reduction: acc = update(acc); store acc."""
        self.accs = self._accumulators(1)
        self.at = tirx.IntImm("int64", 0)
        stmts, values = self._initial()
        stmts = [*(_on_stack(acc) for acc in self.accs), *stmts]
        stmts += [tirx.BufferStore(acc, value, [self.at]) for acc, value in zip(self.accs, values)]
        body = self.lowered.lower()
        stmts.append(self._in_reduce_loops(self.lowered.reduce, body.stmts))
        stmts += [
            self._result(store, index, acc, self.at)
            for store, index, acc in zip(self.stage.stores, body.results, self.accs)
        ]
        return stmts

    def _row(self) -> list[Any]:
        """Partial results in a vector along the innermost reduced loop, folded by halves; the rest of the loop one by one."""
        assert self.combiner is not None
        *outer, (var, extent) = self.lowered.reduce
        constant_extent = constant(extent)
        width = self._width(128)
        while constant_extent is not None and width > 1 and constant_extent < 2 * width:
            width //= 2
        if width < 4:
            return self._scalar()
        partial, whole = self._accumulators(width)[0], self._accumulators(1)[0]
        at0 = tirx.IntImm("int64", 0)
        init_stmts, (init,) = self._initial()
        stmts = [_on_stack(partial), _on_stack(whole), *init_stmts]
        stmts.append(self._lanes(width, lambda lane: [tirx.BufferStore(partial, self.combiner.identity(), [lane])]))
        stmts.append(tirx.BufferStore(whole, init, [at0]))
        chunks, lane, step = tirx.Var("chunk", "int64"), tirx.Var("lane", "int64"), tirx.IntImm("int64", width)
        self.accs, self.at = [partial], lane
        body = self.lowered.lower({var: chunks * step + lane})
        vector = tirx.For(lane, zero(), step, _VECTOR, seq(body.stmts))
        loops = [tirx.For(chunks, zero(), tirx.floordiv(extent, step), _SERIAL, vector)]
        if constant_extent is None or constant_extent % width:
            self.accs, self.at = [whole], at0
            tail = seq(self.lowered.lower().stmts)
            begin = tirx.floordiv(extent, step) * step
            loops.append(tirx.For(var, begin, extent - begin, _SERIAL, tail))
        stmts.append(self._in_reduce_loops(outer, loops))
        half = width // 2
        while half:
            stmts.append(self._lanes(half, lambda lane, half=half: self._fold(partial, lane, partial, lane + half)))
            half //= 2
        stmts += self._fold(whole, at0, partial, at0)
        self.accs, self.at = [whole], at0
        stmts.append(self._result(self.stage.stores[0], self.lowered.lower().results[0], whole, at0))
        return stmts

    def _lanes(self, count: int, make: Any) -> Any:
        """`make(lane)`'s statements for each lane of a vector."""
        if count == 1:
            return seq(make(tirx.IntImm("int64", 0)))
        lane = tirx.Var("lane", "int64")
        return tirx.For(lane, zero(), tirx.IntImm("int64", count), _VECTOR, seq(make(lane)))

    def _fold(self, to: Any, at: Any, source: Any, index: Any) -> list[Any]:
        """to[at] = op(to[at], source[index])"""
        assert self.combiner is not None
        builder = BodyBuilder(self.pulled, self.flat, [])
        a, b = builder.let(tirx.BufferLoad(to, [at])), builder.let(tirx.BufferLoad(source, [index]))
        value = self.combiner.apply(a, b, builder)
        builder.flush()
        return [*builder.body.stmts, tirx.BufferStore(to, value, [at])]

    # ---- columns ---------------------------------------------------------------------------------------------------

    def _columns(self) -> Any:
        """Vectors of results along the innermost spatial loop: wide ones, narrow ones, then the rest one by one."""
        *outer, (var, extent) = self.lowered.spatial
        rows = self._shared_rows(outer)
        wide = self._width(64 if rows else 128)
        widths = [wide, self._width(32)]
        parts, covered, constant_extent = [], tirx.IntImm("int64", 0), constant(extent)
        for width in widths:
            step = tirx.IntImm("int64", width)
            count = tirx.floordiv(extent - covered, step)
            if constant_extent is None or (constant_extent - (constant(covered) or 0)) // width:
                parts += self._tiles(outer, var, covered, count, width, rows)
            if constant_extent is not None:
                covered = tirx.IntImm("int64", constant_extent // width * width)
            else:
                covered = tirx.floordiv(extent, step) * step
        if constant_extent is None or (constant(covered) or 0) < constant_extent:
            rest = tirx.Var("rest", "int64")
            begin = covered

            def one() -> list[Any]:
                return [tirx.Bind(var, begin + rest), *self._scalar()]

            parts.append(self._nest([*outer, (rest, extent - covered)], one))
        return seq(parts)

    def _shared_rows(self, outer: Sequence[Range]) -> bool:
        """Whether neighbouring points of the second innermost spatial loop read something in common, so that they are worth
        computing together."""
        if not outer or outer[-1][0] in self.lowered.body.pinned:
            return False
        loads = [access for access in self.lowered.body.accesses if not access.is_store]
        strides = [self.lowered.stride(access, outer[-1][0]) for access in loads]
        known = constant(outer[-1][1])
        return 0 in strides and any(s != 0 for s in strides) and (known is None or known >= _ROWS)

    def _tiles(self, outer: Sequence[Range], var: Any, begin: Any, count: Any, width: int, rows: bool) -> list[Any]:
        tile = tirx.Var("tile", "int64")
        column = begin + tile * tirx.IntImm("int64", width)
        if not rows:
            return [self._nest([*outer, (tile, count)], lambda: self._block(var, column, width, [{}]))]
        *further, (row, extent) = outer
        block = tirx.Var("block", "int64")
        size = tirx.IntImm("int64", _ROWS)
        blocks = tirx.floordiv(extent, size)
        moves = [{row: block * size + tirx.IntImm("int64", i)} for i in range(_ROWS)]
        parts = [self._nest([*further, (block, blocks), (tile, count)], lambda: self._block(var, column, width, moves))]
        known = constant(extent)
        if known is None or known % _ROWS:
            left = tirx.Var("left", "int64")
            rest = [{row: blocks * size + left}]
            loops = [*further, (left, extent - blocks * size), (tile, count)]
            parts.append(self._nest(loops, lambda: self._block(var, column, width, rest)))
        return parts

    def _block(self, var: Any, column: Any, width: int, moves: Sequence[Mapping[Any, Any]]) -> list[Any]:
        """The results at `column` and the next `width` - 1, for each of the rows that `moves` puts in place."""
        init_stmts, (init,) = self._initial()
        stmts, updates, stores = list(init_stmts), [], []
        for move in moves:
            acc = self._accumulators(width)[0]
            stmts.append(_on_stack(acc))
            stmts.append(self._lanes(width, lambda lane, acc=acc: [tirx.BufferStore(acc, init, [lane])]))
            lane = tirx.Var("lane", "int64")
            self.accs, self.at = [acc], lane
            body = self.lowered.lower({**move, var: column + lane})
            extent = tirx.IntImm("int64", width)
            updates.append(tirx.For(lane, zero(), extent, _VECTOR, seq(body.stmts)))
            put = self._result(self.stage.stores[0], body.results[0], acc, self.at)
            stores.append(tirx.For(lane, zero(), extent, _VECTOR, put))
        return [*stmts, self._in_reduce_loops(self.lowered.reduce, updates), *stores]


def _combiner(stage: Stage) -> _Combiner | None:
    if len(stage.stores) != 1 or stage.binds:
        return None
    store, value = stage.stores[0], stage.stores[0].value
    if not isinstance(value, _OPS):
        return None
    sides = [value.a, value.b]
    own = [isinstance(side, tvm.ir.TensorLoad) and side.source.same_as(store.buffer) for side in sides]
    if own.count(True) != 1:
        return None
    term = sides[own.index(False)]
    dtype = _value_type(store.buffer)
    init = _start(stage, 0)
    if dtype == "float16" and isinstance(value, (tirx.Add, tirx.Mul)):
        dtype = "float32"  # as the frameworks do; the sum of many halves is no half on the way
    if isinstance(init, tirx.FloatImm):
        init = tirx.FloatImm(dtype, float(init.value))
    return _Combiner(type(value), term, dtype, init)


def _value_type(buffer: Any) -> str:
    """The type in which a buffer's elements are computed."""
    return "float32" if str(buffer.dtype) == "bfloat16" else str(buffer.dtype)


def _start(stage: Stage, number: int) -> Any:
    """The value that the accumulation starts from; where TVM takes the lowest finite float for a maximum, that is -inf."""
    value = stage.inits[number].value
    update = stage.stores[number].value
    if isinstance(value, tirx.FloatImm) and isinstance(update, (tirx.Max, tirx.Min)):
        if abs(float(value.value)) > 6e4:
            return tirx.FloatImm(value.ty, float("-inf") if isinstance(update, tirx.Max) else float("inf"))
    return value


def _on_stack(buffer: Any) -> Any:
    """The allocation of accumulators: LLVM's own, which become registers; TVM would ask the runtime for a workspace."""
    return tirx.AllocBuffer(buffer, annotations={"disable_lower_builtin": tirx.IntImm("bool", 1)})
