"""Nests of reductions: accumulators that are local, vectors along the axis that memory runs along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm import tirx
from tvm.sym import Analyzer

from ._body import BodyBuilder, dtype_of
from ._nests import nest, product, seq
from ._stages import Stage

__all__ = ["emit_reduction"]


def emit_reduction(stage: Stage, pulled: Mapping[Any, Stage], flat: Mapping[Any, Any], analyzer: Analyzer) -> Any:
    """The nest of a reduction stage, one accumulator an element."""
    spatial = [(loop.var, loop.extent) for loop in stage.spatial]
    reduce = [(loop.var, loop.extent) for loop in stage.reduce]

    def make() -> list[Any]:
        return _scalar(stage, pulled, flat, spatial, reduce)

    return nest(spatial, make, 4.0, inner_work=product([extent for _, extent in reduce])) if spatial else seq(make())


def _scalar(stage: Stage, pulled: Any, flat: Any, spatial: Any, reduce: Any) -> list[Any]:
    """acc = init; for each point of the reduction: acc = update(acc); store acc."""
    loops = [*spatial, *reduce]
    env = {var: var for var, _ in loops}
    zero = tirx.IntImm("int64", 0)
    accs = {
        store.buffer: tirx.decl_buffer((1,), store.buffer.dtype, name="acc", scope="local") for store in stage.stores
    }
    first = BodyBuilder(pulled, flat, loops)
    inits = [first.let(first.expr(_initial(stage, number), env)) for number in range(len(stage.inits))]
    first.flush()
    stmts: list[Any] = [tirx.AllocBuffer(acc) for acc in accs.values()]
    stmts += first.body.stmts
    stmts += [tirx.BufferStore(accs[store.buffer], value, [zero]) for store, value in zip(stage.stores, inits)]
    update = BodyBuilder(pulled, flat, loops)
    for buffer, acc in accs.items():
        update.overrides[buffer] = update.let(tirx.BufferLoad(acc, [zero]))
    values = update.values(stage, env)
    update.flush()
    inner = update.body.stmts + [
        tirx.BufferStore(accs[store.buffer], value, [zero]) for store, value in zip(stage.stores, values)
    ]
    body = seq(inner)
    for var, extent in reversed(reduce):
        body = tirx.For(var, tirx.IntImm(dtype_of(var), 0), extent, tirx.ForKind.SERIAL, body)
    stmts.append(body)
    last = BodyBuilder(pulled, flat, loops)
    for store in stage.stores:
        last.store(store, tirx.BufferLoad(accs[store.buffer], [zero]), stage, env)
    stmts += last.body.stmts
    return stmts


def _initial(stage: Stage, number: int) -> Any:
    """The value that the accumulation starts from; where TVM takes the lowest finite float for a maximum, that is -inf."""
    value = stage.inits[number].value
    update = stage.stores[number].value
    if isinstance(value, tirx.FloatImm) and isinstance(update, (tirx.Max, tirx.Min)):
        if abs(float(value.value)) > 6e4:
            return tirx.FloatImm(value.ty, float("-inf") if isinstance(update, tirx.Max) else float("inf"))
    return value


