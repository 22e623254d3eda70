"""What runs along an axis in order, which TVM leaves to libraries: sort, argsort, topk, cumsum and cumprod, as functions of our own.

Sorting is a stable bottom-up merge sort of positions (D. Knuth, The Art of Computer Programming 3, 5.2.4), a row at a time, rows in
parallel. NaN is the largest value, as in torch and numpy. `LEGALIZE` is for relax.transform.LegalizeOps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, s_tir, tirx

from . import _math
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


def _loop(extent: Any, make: Callable[[Any], list[Any]], begin: Any = _ZERO) -> Any:
    var = tirx.Var("k", "int64")
    return tirx.For(var, begin, extent, tirx.ForKind.SERIAL, seq(make(var)))


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


# ---- sorting ------------------------------------------------------------------------------------------------------------------


def _before(a: Any, b: Any, descending: bool) -> Any:
    """Whether a must stand before b: strictly, NaN last in ascending and first in descending order."""
    if descending:
        a, b = b, a
    if not dtype_of(a).startswith(("float", "bfloat")):
        return a < b
    return tirx.Or(a < b, tirx.And(_math.is_nan(b), tirx.Not(_math.is_nan(a))))


def _sorted(ty: Any, axis: int, descending: bool, keep: int | None, values: bool, indices: str | None) -> tirx.PrimFunc:
    """Sort rows; of each the first `keep` elements (None: all), as values and as positions of type `indices`."""
    rows = _rows(ty, axis)
    n = rows.length
    x = tirx.decl_buffer(rows.dims, str(ty.dtype), name="x")
    dims = [*rows.dims]
    if keep is not None:
        dims[rows.axis] = tirx.IntImm("int64", keep)
    out = tirx.decl_buffer(dims, str(ty.dtype), name="values") if values else None
    positions = tirx.decl_buffer(dims, indices, name="positions") if indices else None
    order = tirx.decl_buffer((n * 2,), "int64", name="order")  # two halves: from one, into the other
    begin, into, width = _Cell("from"), _Cell("into"), _Cell("width")
    left, right = _Cell("left"), _Cell("right")

    def key(position: Any) -> Any:
        return tirx.BufferLoad(x, rows.at(position))

    def at(half: _Cell, k: Any) -> Any:
        return tirx.BufferLoad(order, [half.value + k])

    def merge(chunk: Any) -> list[Any]:
        low = chunk * width.value * 2
        middle, high = tirx.Var("middle", "int64"), tirx.Var("high", "int64")

        def take(k: Any) -> list[Any]:
            stays = tirx.Not(_before(key(at(begin, right.value)), key(at(begin, left.value)), descending))
            yes, no = tirx.IntImm("bool", 1), tirx.IntImm("bool", 0)
            from_left = tirx.if_then_else(left.value < middle, tirx.if_then_else(right.value < high, stays, yes), no)
            spot = [into.value + k]
            return [
                tirx.IfThenElse(
                    from_left,
                    seq([tirx.BufferStore(order, at(begin, left.value), spot), left.set(left.value + 1)]),
                    seq([tirx.BufferStore(order, at(begin, right.value), spot), right.set(right.value + 1)]),
                )
            ]

        return [
            tirx.Bind(middle, tirx.min(low + width.value, n)),
            tirx.Bind(high, tirx.min(low + width.value * 2, n)),
            left.set(low),
            right.set(middle),
            _loop(high - low, take, begin=low),
        ]

    def put(k: Any) -> list[Any]:
        stores = []
        if out is not None:
            stores.append(tirx.BufferStore(out, key(at(begin, k)), rows.at(k)))
        if positions is not None:
            position = at(begin, k)
            stores.append(
                tirx.BufferStore(
                    positions, position if indices == "int64" else tirx.Cast(indices, position), rows.at(k)
                )
            )
        return stores

    chunks = tirx.floordiv(n + width.value * 2 - 1, width.value * 2)
    passes = seq([_loop(chunks, merge), begin.set(into.value), into.set(n - into.value), width.set(width.value * 2)])
    body = [
        tirx.AllocBuffer(order),
        *(cell.alloc for cell in (begin, into, width, left, right)),
        _loop(n, lambda k: [tirx.BufferStore(order, k, [k])]),
        begin.set(_ZERO),
        into.set(n),
        width.set(_ONE),
        tirx.While(width.value < n, passes),
        _loop(dims[rows.axis], put),
    ]
    return _function([x, *(each for each in (out, positions) if each is not None)], rows, body)


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


def _legalize_sort(builder: relax.BlockBuilder, call: Any) -> Any:
    if not _static_rank(call):
        return call
    func = _sorted(call.args[0].ty, int(call.attrs.axis), bool(call.attrs.descending), None, True, None)
    return _call(builder, call, func, "sort")


def _legalize_argsort(builder: relax.BlockBuilder, call: Any) -> Any:
    if not _static_rank(call):
        return call
    func = _sorted(call.args[0].ty, int(call.attrs.axis), bool(call.attrs.descending), None, False, str(call.ty.dtype))
    return _call(builder, call, func, "argsort")


def _legalize_topk(builder: relax.BlockBuilder, call: Any) -> Any:
    attrs = call.attrs
    if not _static_rank(call) or int(attrs.k) < 1:
        return call
    values, indices = attrs.ret_type != "indices", str(attrs.dtype) if attrs.ret_type != "values" else None
    func = _sorted(call.args[0].ty, int(attrs.axis), bool(attrs.largest), int(attrs.k), values, indices)
    return _call(builder, call, func, "topk")


def _static_rank(call: Any) -> bool:
    ty = call.args[0].ty
    return isinstance(ty.shape, relax.ShapeExpr) and len(ty.shape.values) > 0


LEGALIZE: dict[str, Callable[[Any, Any], Any]] = {
    "relax.cumsum": _legalize_scan(product=False),
    "relax.cumprod": _legalize_scan(product=True),
    "relax.sort": _legalize_sort,
    "relax.argsort": _legalize_argsort,
    "relax.topk": _legalize_topk,
}
