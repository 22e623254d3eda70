"""What operators of linear algebra are written with: batches of small matrices that imperative code reads and writes, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from ..._imperative import imperative
from .._context import Context, Expr
from .._registry import NotConvertible

WIDE = "float64"
SWEEPS = 30  # of Jacobi's methods, which converge quadratically: 6 to 10 suffice


def f(value: float) -> Any:
    return tirx.FloatImm(WIDE, value)


class Matrix:
    """One matrix of a batch in a flat buffer, indexed [row, column]."""

    def __init__(self, buffer: Any, base: Any, columns: Any) -> None:
        self.buffer, self.base, self.columns = buffer, base, columns

    def __getitem__(self, at: tuple[Any, Any]) -> Any:
        return self.buffer[self.base + at[0] * self.columns + at[1]]

    def __setitem__(self, at: tuple[Any, Any], value: Any) -> None:
        self.buffer[self.base + at[0] * self.columns + at[1]] = value


def each_matrix(
    c: Context, inputs: list[Expr], outs: Sequence[tuple[Any, Any, str]], write: Callable[..., None], name: str
) -> list[Expr]:
    """Results [batch, rows, columns] for (rows, columns, dtype) in `outs`, which write(*matrices in, *matrices out) fills. The inputs
    are float64 [..., rows, columns] with equal batch dims."""
    lead = c.shape(inputs[0])[:-2]
    count: Any = 1
    for size in lead:
        count = count * size
    flat = [c.reshape(x, [count, *c.shape(x)[-2:]]) for x in inputs]
    sizes = [c.static_shape_of(x, [1, 2]) for x in flat]

    def build(*tensors: Any) -> Any:
        batch = tensors[0].shape[0]

        def fill(*buffers: Any) -> None:
            both = [tuple(size) for size in sizes] + [(rows, columns) for rows, columns, _ in outs]
            with T.serial(0, batch) as b:
                write(*[Matrix(buffer, b * (m * n), n) for buffer, (m, n) in zip(buffers, both)])

        shapes = [[batch, rows, columns] for rows, columns, _ in outs]
        found = imperative(shapes, [dtype for *_, dtype in outs], list(tensors), fill, name)
        return found if len(found) > 1 else found[0]

    found = c.generated(build, *flat, name=name)
    return [c.reshape(y, [*lead, rows, columns]) for y, (rows, columns, _) in zip(found, outs)]


def wide_matrix(c: Context, x: Expr) -> Expr:
    if c.dtype(x) not in ("float32", "float64"):
        raise NotConvertible(f"matrices of {c.dtype(x)}")
    return c.cast(x, WIDE)


def extents(c: Context, x: Expr) -> tuple[int, int]:
    rows, columns = c.static_shape_of(x, [c.rank(x) - 2, c.rank(x) - 1])
    return rows, columns


def result(c: Context, x: Expr | None, index: int | None) -> Expr | None:
    """x as result `index` of the node; None where nothing reads that."""
    if x is None or (index is not None and not c.used(index)):
        return None
    return c.reshape(c.cast(x, c.out_dtype(index)), c.out_shape(index))


def results(c: Context, *values: Expr | None) -> list[Expr | None]:
    return [result(c, value, index) for index, value in enumerate(values)]


def eye(c: Context, like: Expr) -> Expr:
    """Identities, one for each matrix."""
    rows = extents(c, like)[0]
    return c.broadcast(c.const(np.eye(rows), WIDE), [*c.shape(like)[:-2], rows, rows])


def rotation(values: Any, p: Any, q: Any, off: Any) -> None:
    """values[0], [1] = cosine and sine of the rotation that makes [[p, off], [off, q]] diagonal; off is not 0."""
    cosine, sine, theta = values
    theta[0] = (q - p) / (off * 2.0)
    root = tirx.abs(theta[0]) + tirx.sqrt(theta[0] * theta[0] + 1.0)
    theta[0] = tirx.if_then_else(theta[0] >= 0.0, f(1.0), f(-1.0)) / root
    cosine[0] = f(1.0) / tirx.sqrt(theta[0] * theta[0] + 1.0)
    sine[0] = theta[0] * cosine[0]
