"""Running sums and products along an axis, which TVM leaves to libraries, as functions of our own. `LEGALIZE` is for
relax.transform.LegalizeOps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, s_tir, tirx

from ._body import dtype_of
from ._nests import seq

__all__ = ["LEGALIZE"]

_ZERO, _ONE = tirx.IntImm("int64", 0), tirx.IntImm("int64", 1)


@dataclass(frozen=True)
class _Rows:
    """A tensor seen as rows along `axis`: its dimensions (a fresh variable for each that is not constant), and `at(k)`, the
    indices of element k of the row that `task` numbers."""

    dims: list[Any]
    axis: int
    task: Any

    @property
    def count(self) -> Any:
        return _product([dim for i, dim in enumerate(self.dims) if i != self.axis])

    @property
    def length(self) -> Any:
        return self.dims[self.axis]

    def at(self, k: Any) -> list[Any]:
        rest, indices = self.task, []
        for i in reversed(range(len(self.dims))):
            if i == self.axis:
                indices.append(k)
            else:
                indices.append(tirx.truncmod(rest, self.dims[i]))
                rest = tirx.truncdiv(rest, self.dims[i])
        return indices[::-1]


def _product(extents: Sequence[Any]) -> Any:
    result: Any = _ONE
    for extent in extents:
        result = result * extent
    return result


def _rows(ty: Any, axis: int) -> _Rows:
    dims: list[Any] = [
        extent if isinstance(extent, tirx.IntImm) else tirx.Var(f"d{i}", "int64")
        for i, extent in enumerate(ty.shape.values)
    ]
    return _Rows(dims, axis % len(dims), tirx.Var("task", "int64"))


def _function(buffers: Sequence[Any], rows: _Rows, body: Sequence[Any]) -> tirx.PrimFunc:
    loop = tirx.For(rows.task, _ZERO, rows.count, tirx.ForKind.PARALLEL, seq(body))
    inner = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "rows", loop))
    root = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", inner))  # the form that TVM's analyses expect
    return tirx.PrimFunc(list(buffers), root).with_attr("tirx.noalias", True).with_attr("s_tir", True)


def _loop(extent: Any, make: Callable[[Any], list[Any]]) -> Any:
    var = tirx.Var("k", "int64")
    return tirx.For(var, _ZERO, extent, tirx.ForKind.SERIAL, seq(make(var)))


class _Cell:
    """A number that a loop changes."""

    def __init__(self, name: str, dtype: str = "int64") -> None:
        self.buffer = tirx.decl_buffer((1,), dtype, name=name, scope="local")
        self.alloc = tirx.AllocBuffer(self.buffer, annotations={"disable_lower_builtin": tirx.IntImm("bool", 1)})

    @property
    def value(self) -> Any:
        return tirx.BufferLoad(self.buffer, [_ZERO])

    def set(self, value: Any) -> Any:
        return tirx.BufferStore(self.buffer, value, [_ZERO])


# ---- running sums and products -----------------------------------------------------------------------------------------------


def _scan(ty: Any, axis: int, dtype: str, exclusive: bool, product: bool) -> tirx.PrimFunc:
    rows = _rows(ty, axis)
    x = tirx.decl_buffer(rows.dims, str(ty.dtype), name="x")
    y = tirx.decl_buffer(rows.dims, dtype, name="y")
    total = _Cell("total", "float32" if dtype in ("float16", "bfloat16") else dtype)
    kind = dtype_of(total.value)

    def step(k: Any) -> list[Any]:
        term: Any = tirx.BufferLoad(x, rows.at(k))
        term = term if dtype_of(term) == kind else tirx.Cast(kind, term)
        put = tirx.BufferStore(y, total.value if kind == dtype else tirx.Cast(dtype, total.value), rows.at(k))
        grow = total.set(total.value * term if product else total.value + term)
        return [put, grow] if exclusive else [grow, put]

    body = [total.alloc, total.set(tirx.const(1 if product else 0, kind)), _loop(rows.length, step)]
    return _function([x, y], rows, body)


# ---- legalization -----------------------------------------------------------------------------------------------------------


def _call(builder: relax.BlockBuilder, call: Any, func: tirx.PrimFunc, name: str) -> Any:
    ty = call.ty
    outs = list(ty.fields) if isinstance(ty, tvm.ir.TupleType) else ty
    return relax.call_tir(builder.add_func(func, name), [call.args[0]], outs)


def _legalize_scan(product: bool) -> Callable[[Any, Any], Any]:
    def legalize(builder: relax.BlockBuilder, call: Any) -> Any:
        axis = call.attrs.axis
        if axis is None or not _static_rank(call):
            return call
        func = _scan(call.args[0].ty, int(axis), str(call.ty.dtype), bool(call.attrs.exclusive), product)
        return _call(builder, call, func, "cumprod" if product else "cumsum")

    return legalize


def _static_rank(call: Any) -> bool:
    ty = call.args[0].ty
    return isinstance(ty.shape, relax.ShapeExpr) and len(ty.shape.values) > 0


LEGALIZE: dict[str, Callable[[Any, Any], Any]] = {
    "relax.cumsum": _legalize_scan(product=False),
    "relax.cumprod": _legalize_scan(product=True),
}
