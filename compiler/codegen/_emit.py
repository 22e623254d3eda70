"""Emits the loop nests of one function: what is pulled, what is stored, which stages share a nest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.sym import Analyzer

from . import _math
from ._body import Body, BodyBuilder, TooBig
from ._lowered import lower_in_loops, zero
from ._nests import constant, nest, product, seq
from ._realign import element_aligned
from ._reduce import emit_reduction
from ._stages import Stage, Stages, children, walk

__all__ = ["emit_function"]

_MAX_REACH = 600  # Python frames that building the body of a chain of pulled stages may take


def emit_function(func: tirx.PrimFunc, stages: Stages) -> tirx.PrimFunc:
    """`func` with loops of this project's making; its parameters keep their order."""
    try:
        return _Emitter(func, stages, pull=True).emit()
    except TooBig:
        return _Emitter(func, stages, pull=False).emit()


class _Emitter:
    def __init__(self, func: tirx.PrimFunc, stages: Stages, pull: bool) -> None:
        self.func = func
        self.stages = stages.stages
        self.analyzer = Analyzer()
        writers: dict[Any, list[Stage]] = {}
        for stage in self.stages:
            for store in stage.stores:
                writers.setdefault(store.buffer, []).append(stage)
        inner = [buffer for buffer in stages.intermediates if buffer in writers]
        self.loaded = {id(stage): _loaded(stage) for stage in self.stages}
        self.readers: dict[Any, list[Stage]] = {}
        for stage in self.stages:
            for buffer in dict.fromkeys(self.loaded[id(stage)]):
                self.readers.setdefault(buffer, []).append(stage)
        self.pulled: dict[Any, Stage] = {}
        self.costly: set[Any] = set()  # of the pulled ones
        self.reach: dict[Any, int] = {}
        if pull:
            for buffer in inner:  # in the order of computation, so that a producer's own cost is known
                if len(writers[buffer]) == 1 and self._is_pullable(buffer, writers[buffer][0]):
                    self._pull(buffer, writers[buffer][0])
        self.stored_buffers = [buffer for buffer in inner if buffer not in self.pulled]
        self.flat: dict[Any, Any] = {}
        self.prologue: list[Any] = []
        self.params = [
            self._declare(each, parameter=True) if tirx.is_buffer_var(each) else each for each in func.params
        ]
        for buffer in self.stored_buffers:
            self._declare(buffer, parameter=False)

    def _declare(self, buffer: Any, parameter: bool) -> Any:
        """Make the buffer's flat view; for a parameter, the parameter that takes its place."""
        size = product(buffer.shape)
        name = buffer.name
        if not parameter:
            self.flat[buffer] = tirx.decl_buffer((size,), buffer.dtype, name=f"{name}_flat")
            self.prologue.append(tirx.AllocBuffer(self.flat[buffer]))
            return buffer
        given = element_aligned(buffer)
        self.flat[buffer] = tirx.decl_buffer(
            (size,), buffer.dtype, name=f"{name}_flat", data=given.data, data_alignment=given.data_alignment
        )
        self.prologue.append(tirx.DeclBuffer(self.flat[buffer], data=given.data))
        return given

    # ---- what is pulled --------------------------------------------------------------------------------------------

    def _is_pullable(self, buffer: Any, stage: Stage) -> bool:
        """A plain value, stored at its own loops' variables, that is cheap or is not computed more often when it is pulled."""
        if stage.inits or len(stage.stores) != 1:
            return False
        written = []
        for index in stage.stores[0].indices:
            var = stage.env.get(index, index) if isinstance(index, tirx.Var) else index
            if isinstance(var, tirx.Var):
                written.append(var)
            elif constant(var) != 0:
                return False
        loops = {loop.var for loop in stage.loops if constant(loop.extent) != 1}
        if len(set(written)) != len(written) or not loops <= set(written):
            return False
        if self._reach(stage) > _MAX_REACH:
            return False
        if not self._is_costly(stage):
            return True
        consumers = [each for each in self.readers.get(buffer, ()) if each is not stage]
        points = product([loop.extent for loop in stage.loops])
        return len(consumers) == 1 and all(
            self.analyzer.can_prove(product([loop.extent for loop in each.loops]) <= points) for each in consumers
        )

    def _pull(self, buffer: Any, stage: Stage) -> None:
        self.pulled[buffer] = stage
        self.reach[buffer] = self._reach(stage)
        if self._is_costly(stage):
            self.costly.add(buffer)

    def _reach(self, stage: Stage) -> int:
        """About how deep the recursion gets that lowers a stage with all that is pulled into it."""
        below = max((self.reach.get(buffer, 0) for buffer in self.loaded[id(stage)]), default=0)
        values = [value for _, value in stage.binds] + [store.value for store in stage.stores]
        return below + 3 + 2 * max(_height(value) for value in values)

    def _is_costly(self, stage: Stage) -> bool:
        """Whether a value takes a library function or a chain of them, its pulled producers included."""
        values = (*(value for _, value in stage.binds), *(store.value for store in stage.stores))
        return any(buffer in self.costly for buffer in self.loaded[id(stage)]) or any(
            isinstance(node, tvm.ir.Call) and _math.is_expensive(node.op.name)
            for value in values
            for node in walk(value)
        )

    # ---- nests -----------------------------------------------------------------------------------------------------

    def emit(self) -> tirx.PrimFunc:
        body = list(self.prologue)
        for group in self._groups():
            if group[0].inits:
                body.append(emit_reduction(group[0], self.pulled, self.flat, self.analyzer))
            else:
                body.append(self._spatial(group))
        func = tirx.PrimFunc(self.params, seq(body), self.func.ret_type)
        return func.with_attr("tirx.noalias", True)

    def _groups(self) -> list[list[Stage]]:
        """Stages that exist, neighbours with the same loops together if the later read the earlier only at their own point."""
        groups: list[list[Stage]] = []
        for stage in self.stages:
            if stage.stores[0].buffer in self.pulled:
                continue
            if groups and not stage.inits and self._joins(groups[-1], stage):
                groups[-1].append(stage)
            else:
                groups.append([stage])
        return groups

    def _joins(self, group: Sequence[Stage], stage: Stage) -> bool:
        first = group[0]
        if first.inits or len(first.loops) != len(stage.loops):
            return False
        if not all(self.analyzer.can_prove_equal(a.extent, b.extent) for a, b in zip(first.loops, stage.loops)):
            return False
        written = {store.buffer for each in group for store in each.stores}
        return not written & self._touched(stage) and not {store.buffer for store in stage.stores} & {
            buffer for each in group for buffer in self._touched(each)
        }

    def _touched(self, stage: Stage) -> set[Any]:
        """Buffers that the stage reads, also through what it pulls."""
        found: set[Any] = set()
        pending = [stage]
        while pending:
            each = pending.pop()
            for buffer in self.loaded[id(each)]:
                if buffer in found:
                    continue
                found.add(buffer)
                if buffer in self.pulled:
                    pending.append(self.pulled[buffer])
        return found

    def _spatial(self, group: Sequence[Stage]) -> Any:
        loops = [(loop.index, loop.extent) for loop in group[0].loops]
        lowered = lower_in_loops(
            loops, [], lambda indices, bound: self._body(group, loops, indices, bound), self.analyzer
        )
        return nest(lowered.spatial, lambda: lowered.lower().stmts, lowered.body.cost)

    def _body(
        self,
        group: Sequence[Stage],
        loops: Sequence[tuple[Any, Any]],
        indices: Sequence[Any] | None,
        bound: Sequence[Any],
    ) -> Body:
        builder = BodyBuilder(self.pulled, self.flat, loops, indices, bound)
        for stage in group:
            env = {
                loop.var: zero() if constant(extent) == 1 else var for loop, (var, extent) in zip(stage.loops, loops)
            }
            for store, value in zip(stage.stores, builder.values(stage, env)):
                builder.store(store, value, stage, env)
        builder.flush()
        return builder.body


def _height(expr: Any) -> int:
    """How many operations are nested in each other."""
    top, pending = 0, [(expr, 1)]
    while pending:
        node, height = pending.pop()
        top = max(top, height)
        pending += [(each, height + 1) for each in children(node)]
    return top


def _loaded(stage: Stage) -> list[Any]:
    found = []
    values = [value for _, value in stage.binds] + [store.value for store in stage.stores]
    values += [index for store in stage.stores for index in store.indices]
    for value in values:
        found += [node.source for node in walk(value) if isinstance(node, tvm.ir.TensorLoad)]
    own = {store.buffer for store in stage.stores} if stage.inits else set()
    return [buffer for buffer in found if buffer not in own]
