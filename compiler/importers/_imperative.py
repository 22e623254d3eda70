"""Generated functions that are loops with a carried value, which a te.compute cannot say: running sums, sorting. For all importers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

__all__ = ["flat_extents", "imperative", "running", "variable"]


def imperative(
    shapes: Sequence[Sequence[Any]], dtypes: Sequence[str], inputs: Sequence[Any], write: Callable[..., None], name: str
) -> list[Any]:
    """Outputs that a piece of imperative code fills in: write(*flat input buffers, *flat output buffers).

    Buffers are indexed flat, row-major; `T` of tvm.script gives the loops."""
    ins = [tirx.decl_buffer(t.shape, t.dtype, f"in{k}") for k, t in enumerate(inputs)]
    outs = [tirx.decl_buffer(s, d, f"out{k}") for k, (s, d) in enumerate(zip(shapes, dtypes, strict=True))]

    def generate(reads: Any, writes: Any) -> Any:
        with IRBuilder() as ib:
            with T.seq_scope():
                write(*[_flat(b) for b in reads], *[_flat(b) for b in writes])
            return ib.get()

    result = te.extern(
        [list(s) for s in shapes],
        list(inputs),
        generate,
        name=name,
        dtype=list(dtypes),
        in_buffers=ins,
        out_buffers=outs,
    )
    return [result] if not isinstance(result, list | tuple) and not hasattr(result, "__len__") else list(result)


def _flat(buffer: Any) -> Any:
    if any(isinstance(d, tirx.IntImm) and d.value == 0 for d in buffer.shape):
        return _Nothing(buffer)
    return T.buffer_proxy(buffer)


class _Nothing:
    """A buffer without elements: what stands in loops that never run cannot be told as indices, which would divide by an extent of 0."""

    def __init__(self, buffer: Any) -> None:
        self._buffer, self.shape, self.dtype = buffer, buffer.shape, buffer.dtype
        self._first = [tirx.IntImm("int64", 0)] * len(buffer.shape)

    def __getitem__(self, index: Any) -> Any:
        return tirx.BufferLoad(self._buffer, self._first)

    def __setitem__(self, index: Any, value: Any) -> None:
        T.buffer_store(self._buffer, value, self._first)


def variable(dtype: str) -> Any:
    """A scalar inside imperative code: read and written as v[0]."""
    return T.buffer_proxy(T.alloc_buffer((1,), dtype, scope="local"))


def flat_extents(shape: Sequence[Any], axis: int) -> tuple[Any, Any, Any]:
    """(product before the axis, its extent, product behind it)."""
    before: Any = tirx.IntImm("int64", 1)
    after: Any = tirx.IntImm("int64", 1)
    for i, d in enumerate(shape):
        if i < axis:
            before = before * d
        elif i > axis:
            after = after * d
    return before, shape[axis], after


def running(
    t: Any, axis: int, function: Callable[[Any, Any], Any], identity: Any, exclusive: bool, reverse: bool
) -> Any:
    """out[k] = function over t[0..k] (without k if exclusive; from the end if reverse), sequentially along the axis."""
    before, extent, after = flat_extents(t.shape, axis)

    def write(x: Any, y: Any) -> None:
        with T.serial(0, before) as b, T.serial(0, after) as a:
            base = b * extent * after + a
            with T.serial(0, extent) as k:
                at = base + (extent - 1 - k if reverse else k) * after
                previous = at + after if reverse else at - after
                with T.If(k == 0):
                    with T.Then():
                        y[at] = identity if exclusive else x[at]
                    with T.Else():
                        y[at] = function(y[previous], x[previous] if exclusive else x[at])

    return imperative([t.shape], [t.dtype], [t], write, "running")[0]
