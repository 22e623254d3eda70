"""The order of a block's steps: what is large is computed shortly before it is read.

A file's order may be any that its edges allow: ONNX's quantizers, for one, write down first all that depends on the inputs alone, and a
decoder's keys and values of every layer then lie in memory, and out of the caches, until their layer comes. A step moves down to its first
reader where that shortens the life of more bytes than it lengthens, which are those of its own operands. Steps without a choice (copies,
branches, loops, sizes that the data decides) stay.
"""

from __future__ import annotations

from maas_rt._plan import ArgKind, Block, Expr, ExprOp, Plan, Step, StepKind, Storage

from ._exprs import computed

__all__ = ["compute_late"]

_MIN_RESULT_BYTES = 64 << 10  # bytes of a result that is worth it
_GAIN = 2  # a result is at least so many times as large as what then lives longer
_ASSUMED_EXTENT = 256  # stands for a dimension without an upper bound


def compute_late(plan: Plan) -> None:
    """Reorders the steps of every block in place."""
    sizes = _Sizes(plan)
    for block in plan.blocks:
        _Block(plan, block, sizes).reorder()


class _Sizes:
    """Bytes of values, the same guess for an open dimension everywhere."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._extents: list[int] = []
        for expr in plan.exprs:
            self._extents.append(self._extent(expr))

    def _extent(self, expr: Expr) -> int:
        if expr.op == ExprOp.CONSTANT:
            return expr.a
        if expr.op == ExprOp.SYMBOL:
            symbol = self._plan.symbols[expr.a]
            return symbol.max if symbol.max >= 0 else max(symbol.min, _ASSUMED_EXTENT)
        return computed(expr.op, self._extents[expr.a], self._extents[expr.b])

    def of(self, value: int) -> int:
        record = self._plan.values[value]
        count = record.dtype_bits // 8
        for dim in record.dims:
            count *= max(0, self._extents[dim])
        return count


class _Block:
    def __init__(self, plan: Plan, block: Block, sizes: _Sizes) -> None:
        self._plan, self._block, self._sizes = plan, block, sizes
        self._readers: dict[int, list[Step]] = {}  # by root: steps that name it, within their own blocks too
        for step in block.steps:
            for root in {self._root(value) for value in self._values_of(step)}:
                self._readers.setdefault(root, []).append(step)
        self._results = {self._root(value) for value in block.results}
        self._place = {id(step): at for at, step in enumerate(block.steps)}

    def reorder(self) -> None:
        steps = self._block.steps
        for step in reversed(list(steps)):
            at = self._place[id(step)]
            to = self._first_reader(step) - 1
            if to <= at or not self._pays(step, to):
                continue
            steps.insert(to, steps.pop(at))
            for place in range(at, to + 1):
                self._place[id(steps[place])] = place

    def _root(self, value: int) -> int:
        while self._plan.values[value].storage == Storage.VIEW:
            value = self._plan.values[value].base
        return value

    def _values_of(self, step: Step) -> list[int]:
        """What a step and the blocks in it read and write."""
        found = [arg.index for arg in step.args if arg.kind == ArgKind.VALUE] + list(step.outs)
        for number in step.blocks:
            inner = self._plan.blocks[number]
            found += inner.params + inner.results
            for each in inner.steps:
                found += self._values_of(each)
        return found

    def _first_reader(self, step: Step) -> int:
        """The place of the first step that reads what `step` writes; its own where it cannot move."""
        roots = {self._root(value) for value in step.outs}
        values = self._plan.values
        own = self._place[id(step)]
        if step.kind not in (StepKind.KERNEL, StepKind.CODE) or step.binds or step.blocks or roots & self._results:
            return own
        if any(values[root].storage != Storage.ARENA for root in roots):
            return own
        if any(values[self._root(value)].storage == Storage.STATE for value in self._values_of(step)):
            return own
        places = [self._place[id(each)] for root in roots for each in self._readers[root] if each is not step]
        return min(places) if places and min(places) > own else own

    def _pays(self, step: Step, to: int) -> bool:
        gained = sum(self._sizes.of(value) for value in step.outs)
        if gained < _MIN_RESULT_BYTES:
            return False
        lengthened = 0
        for root in {self._root(arg.index) for arg in step.args if arg.kind == ArgKind.VALUE}:
            last = max(self._place[id(each)] for each in self._readers[root])
            if self._plan.values[root].storage == Storage.ARENA and last <= to and root not in self._results:
                lengthened += self._sizes.of(root)
        return gained >= _GAIN * lengthened
