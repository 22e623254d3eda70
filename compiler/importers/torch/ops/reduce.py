"""Reductions, and what runs along an axis: sums, extrema, moments, cumulative sums, sorting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax

from ..._positions import position_of_extreme
from ..._top_k import first_of_axis
from .._context import Context, Expr
from .._dtypes import is_float
from .._registry import NotConvertible, converts

OP = relax.op


def _axes(c: Context, x: Expr, dim: Any) -> list[int]:
    rank = c.rank(x)
    if dim is None or dim == []:
        return list(range(rank))
    return sorted(d % rank if rank else 0 for d in ([dim] if isinstance(dim, int) else dim))


def _reduced(c: Context, x: Expr, dim: Any, keepdim: bool, function: Callable[..., Any]) -> Expr:
    """function over the axes; over none at all (rank 0) it is x itself."""
    axes = _axes(c, x, dim)
    if c.rank(x) == 0:
        return x
    return c.emit(function(x, axes, keepdim))


def _half(dtype: str) -> str:
    """The dtype to accumulate in."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


@converts("aten.sum.default", "aten.sum.dim_IntList")
def sum_(c: Context, x: Expr, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Expr:
    result = c.out_dtype()
    return c.cast(_reduced(c, c.cast(x, _half(result)), dim, keepdim, OP.sum), result)


@converts("aten.mean.default", "aten.mean.dim")
def mean(c: Context, x: Expr, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Expr:
    result = c.out_dtype()
    return c.cast(_reduced(c, c.cast(x, _half(result)), dim, keepdim, OP.mean), result)


@converts("aten.prod.default", "aten.prod.dim_int")
def prod(c: Context, x: Expr, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Expr:
    result = c.out_dtype()
    return c.cast(_reduced(c, c.cast(x, _half(result)), dim, keepdim, OP.prod), result)


def _extreme(c: Context, x: Expr, dim: Any, keepdim: bool, function: Callable[..., Any]) -> Expr:
    if c.dtype(x) == "bool":
        return c.cast(_reduced(c, c.emit(OP.astype(x, "int8")), dim, keepdim, function), "bool")
    return _reduced(c, x, dim, keepdim, function)


@converts("aten.amax.default", "aten.max.default")
def amax(c: Context, x: Expr, dim: Any = None, keepdim: bool = False) -> Expr:
    return _extreme(c, x, dim, keepdim, OP.max)


@converts("aten.amin.default", "aten.min.default")
def amin(c: Context, x: Expr, dim: Any = None, keepdim: bool = False) -> Expr:
    return _extreme(c, x, dim, keepdim, OP.min)


@converts("aten.any.default", "aten.any.dim", "aten.any.dims")
def any_(c: Context, x: Expr, dim: Any = None, keepdim: bool = False) -> Expr:
    ones = _reduced(c, c.emit(OP.astype(c.cast(x, "bool"), "int8")), dim, keepdim, OP.max)
    return c.cast(c.emit(OP.greater(ones, c.const(0, "int8"))), c.out_dtype())  # the greatest of nothing is below 0


@converts("aten.all.default", "aten.all.dim", "aten.all.dims")
def all_(c: Context, x: Expr, dim: Any = None, keepdim: bool = False) -> Expr:
    return c.cast(_extreme(c, c.cast(x, "bool"), dim, keepdim, OP.min), c.out_dtype())


def _position(c: Context, x: Expr, dim: Any, keepdim: bool, greatest: bool) -> Expr:
    rank = c.rank(x)
    if rank == 0:
        return c.const(0, "int64")
    if c.dtype(x) == "bool":
        x = c.emit(OP.astype(x, "int8"))
    axis = 0 if dim is None else dim % rank
    if dim is None:
        x = c.reshape(x, [_count(c, x)])
    one = keepdim and dim is not None
    shape = [1 if a == axis else d for a, d in enumerate(c.shape(x)) if one or a != axis]

    def build(t: Any, sizes: Any) -> Any:
        return position_of_extreme(t, sizes, axis, keepdims=one, greatest=greatest)

    found = c.emit_te(build, x, shape)
    return c.reshape(found, [1] * rank) if dim is None and keepdim else found


def _count(c: Context, x: Expr) -> Any:
    total: Any = 1
    for size in c.shape(x):
        total = total * size
    return total


@converts("aten.argmax.default")
def argmax(c: Context, x: Expr, dim: Any = None, keepdim: bool = False) -> Expr:
    return _position(c, x, dim, keepdim, True)


@converts("aten.argmin.default")
def argmin(c: Context, x: Expr, dim: Any = None, keepdim: bool = False) -> Expr:
    return _position(c, x, dim, keepdim, False)


@converts("aten.max.dim")
def max_dim(c: Context, x: Expr, dim: int, keepdim: bool = False) -> list[Expr]:
    return [_extreme(c, x, dim, keepdim, OP.max), _position(c, x, dim, keepdim, True)]


@converts("aten.min.dim")
def min_dim(c: Context, x: Expr, dim: int, keepdim: bool = False) -> list[Expr]:
    return [_extreme(c, x, dim, keepdim, OP.min), _position(c, x, dim, keepdim, False)]


def _variance(c: Context, x: Expr, dim: Any, correction: Any, keepdim: bool) -> tuple[Expr, Expr]:
    """The variance and the mean over the axes, two passes: mean((x - mean)^2) * n / (n - correction)."""
    if c.rank(x) == 0:
        raise NotConvertible("the variance of a number")
    axes = _axes(c, x, dim)
    center = c.emit(OP.mean(x, axes, True))
    off = c.emit(OP.subtract(x, center))
    squares = c.emit(OP.multiply(off, off))
    total = c.emit(OP.sum(squares, axes, keepdim))
    count: Any = 1
    for axis in axes:
        count = count * c.shape(x)[axis]
    dtype = c.dtype(x)
    correction = 1 if correction is None else correction
    if isinstance(count, int):
        scaled = c.emit(OP.divide(total, c.const(float(max(count - correction, 0)), dtype)))
    else:
        freedom = c.emit(OP.subtract(c.tensor(count, dtype), c.const(float(correction), dtype)))
        scaled = c.emit(OP.divide(total, c.emit(OP.maximum(freedom, c.const(0.0, dtype)))))
    middle = center if keepdim else c.reshape(center, c.shape(scaled))
    return scaled, middle


@converts("aten.var.correction")
def var(c: Context, x: Expr, dim: Any = None, correction: Any = None, keepdim: bool = False) -> Expr:
    result = c.out_dtype()
    return c.cast(_variance(c, c.cast(x, _half(result)), dim, correction, keepdim)[0], result)


@converts("aten.var_mean.correction")
def var_mean(c: Context, x: Expr, dim: Any = None, correction: Any = None, keepdim: bool = False) -> list[Expr]:
    result = c.out_dtype(0)
    return [c.cast(v, result) for v in _variance(c, c.cast(x, _half(result)), dim, correction, keepdim)]


@converts("aten.cumsum.default")
def cumsum(c: Context, x: Expr, dim: int, dtype: Any = None) -> Expr:
    return _running(c, x, dim, OP.cumsum)


@converts("aten.cumprod.default")
def cumprod(c: Context, x: Expr, dim: int, dtype: Any = None) -> Expr:
    return _running(c, x, dim, OP.cumprod)


def _running(c: Context, x: Expr, dim: int, function: Callable[..., Any]) -> Expr:
    result = c.out_dtype()
    x = c.cast(x, _half(result))
    if c.rank(x) == 0:
        return c.cast(x, result)
    return c.cast(c.emit(function(x, dim % c.rank(x))), result)


@converts("aten.topk.default")
def topk(c: Context, x: Expr, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> list[Expr]:
    if c.rank(x) == 0:
        return [x, c.const(0, "int64")]
    return ordered(c, x, dim % c.rank(x), k, largest)


def ordered(c: Context, x: Expr, axis: int, k: Any, largest: bool) -> list[Expr]:
    """[values, positions] of the first k elements of each line in order; ties by position, NaN above everything."""
    assert c.node is not None
    return first_of_axis(c.emit, x, axis, k, largest=largest, name=c.node.name)


@converts("aten.argsort.default", "aten.argsort.stable")
def argsort(c: Context, x: Expr, dim: int = -1, descending: bool = False, stable: Any = None) -> Expr:
    if c.rank(x) == 0:
        return c.const(0, "int64")
    return sort(c, x, dim, descending)[1]


@converts("aten.sort.default", "aten.sort.stable")
def sort(c: Context, x: Expr, dim: int = -1, descending: bool = False, stable: Any = None) -> list[Expr]:
    if c.rank(x) == 0:
        return [x, c.const(0, "int64")]
    axis = dim % c.rank(x)
    return ordered(c, x, axis, c.shape(x)[axis], descending)


@converts("aten.linalg_vector_norm.default")
def vector_norm(c: Context, x: Expr, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Expr:
    result = c.out_dtype()
    x = c.cast(x, _half(result))
    if not is_float(c.dtype(x)):
        raise NotConvertible(f"a norm of order {ord}")
    size = c.emit(OP.abs(x))
    if ord == 0:
        filled = c.cast(c.emit(OP.not_equal(x, c.const(0.0, c.dtype(x)))), c.dtype(x))
        return c.cast(_reduced(c, filled, dim, keepdim, OP.sum), result)
    if c.rank(x) == 0:
        return c.cast(size, result)
    if ord in (float("inf"), float("-inf")):
        return c.cast(_reduced(c, size, dim, keepdim, OP.max if ord > 0 else OP.min), result)
    if ord not in (1, 2):
        powers = _reduced(c, c.emit(OP.power(size, c.const(float(ord), c.dtype(x)))), dim, keepdim, OP.sum)
        return c.cast(c.emit(OP.power(powers, c.const(1 / ord, c.dtype(x)))), result)
    if ord == 1:
        return c.cast(_reduced(c, size, dim, keepdim, OP.sum), result)
    squares = _reduced(c, c.emit(OP.multiply(x, x)), dim, keepdim, OP.sum)
    return c.cast(c.emit(OP.sqrt(squares)), result)
