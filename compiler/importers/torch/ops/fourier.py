"""Fourier transforms, as products with roots of unity; `normalization`: 0 none, 1 by the root of the number of elements, 2 by their number."""

from __future__ import annotations

import math
from typing import Any

from tvm import relax

from ..._dft import complex_dft, half_to_real, real_dft, root_tables
from .._complex import Pair, converts_complex, part_dtype
from .._context import Context, Expr
from .._registry import NotConvertible
from . import linear
from .complex import as_pair, product, times

OP = relax.op


def _count(c: Context, shape: Any, dim: list[int]) -> Any:
    total: Any = 1
    for axis in dim:
        total = total * shape[axis]
    return total


def _factor(c: Context, count: Any, normalization: int) -> Any:
    """What a transform is multiplied by: a number, or for a count that is dynamic a tensor of float64."""
    if normalization == 0:
        return 1.0
    if isinstance(count, int):
        return 1.0 / count if normalization == 2 else 1.0 / math.sqrt(count)
    many = c.tensor(count, "float64")
    return c.emit(OP.divide(c.const(1.0, "float64"), many if normalization == 2 else c.emit(OP.sqrt(many))))


def _axis_moved(c: Context, x: Expr | None, axis: int, back: bool = False) -> Expr | None:
    """The axis last; or the last one back at the axis."""
    if x is None:
        return None
    rank = c.rank(x)
    front = [a for a in range(rank) if a != axis]
    return c.permute(x, [*range(axis), rank - 1, *range(axis, rank - 1)] if back else [*front, axis])


def _dft_of_axis(c: Context, x: Pair, axis: int, inverse: bool, scale: Any) -> Pair:
    """The transform of one axis."""
    size = c.shape(x.real)[axis]
    if not isinstance(size, int):
        return _multiplied(c, _dynamic(c, x, axis, size, inverse), scale)
    inner, outer = (scale, 1.0) if isinstance(scale, float) else (1.0, scale)
    real, imag = complex_dft(c.emit, _axis_moved(c, x.real, axis), _axis_moved(c, x.imag, axis), inverse, inner)
    return _multiplied(c, Pair(_axis_moved(c, real, axis, True), _axis_moved(c, imag, axis, True)), outer)


def _multiplied(c: Context, x: Pair, scale: Any) -> Pair:
    return x if isinstance(scale, float) and scale == 1.0 else times(c, x, as_pair(c, scale, c.dtype(x.real)))


def _tables(
    c: Context, rows: Any, columns: Any, length: Any, inverse: bool, half: bool, dtype: str
) -> tuple[Expr, Expr]:
    """Roots of unity for a size that is dynamic."""

    def build(extents: Any) -> Any:
        return root_tables(extents[0], extents[1], extents[2], inverse, half, dtype)

    cosines, sines = c.generated(build, [rows, columns, length], name="roots")
    return cosines, sines


def _rows_of(c: Context, x: Expr, axis: int) -> Expr:
    """The axis last, and all others merged into one before it."""
    moved = _axis_moved(c, x, axis)
    shape = c.shape(moved)
    return c.reshape(moved, [_count(c, shape, list(range(len(shape) - 1))), shape[-1]])


def _from_rows(c: Context, rows: Expr | None, like: Expr, axis: int) -> Expr:
    """`_rows_of` undone."""
    shape = c.shape(like)
    wide = c.reshape(rows, [*shape[:axis], *shape[axis + 1 :], c.shape(rows)[1]])
    return _axis_moved(c, wide, axis, True)


def _dynamic(c: Context, x: Pair, axis: int, columns: Any, inverse: bool) -> Pair:
    """The first `columns` elements of the transform of an axis whose size is dynamic."""
    size, dtype = c.shape(x.real)[axis], c.dtype(x.real)
    roots = Pair(*_tables(c, size, columns, size, inverse, False, dtype))
    rows = Pair(_rows_of(c, x.real, axis), None if x.imag is None else _rows_of(c, x.imag, axis))
    found = product(c, rows, roots)
    return Pair(_from_rows(c, found.real, x.real, axis), _from_rows(c, found.imag, x.real, axis))


def _dynamic_to_real(c: Context, x: Pair, axis: int, size: Any) -> Expr:
    """The real signal of a dynamic size whose spectrum begins with x."""
    bins = size // 2 + 1
    cosines, sines = _tables(c, bins, size, size, True, True, c.dtype(x.real))
    real = c.slice(x.real, axis, 0, bins)
    total = linear.product(c, _rows_of(c, real, axis), cosines)
    if x.imag is not None:
        imag = linear.product(c, _rows_of(c, c.slice(x.imag, axis, 0, bins), axis), sines)
        total = c.emit(OP.subtract(total, imag))
    return _from_rows(c, total, real, axis)


def _computed(c: Context, x: Any, dtype: Any) -> Pair:
    """x in the dtype in which it is transformed."""
    if part_dtype(dtype) not in ("float32", "float64"):
        raise NotConvertible(f"transforms in {dtype}")
    return as_pair(c, x, part_dtype(dtype))


@converts_complex("aten._fft_c2c.default")
def fft_c2c(c: Context, x: Pair, dim: list[int], normalization: int, forward: bool) -> Pair:
    x = _computed(c, x, c.result.dtype)
    rank = c.rank(x.real)
    axes = [d % rank for d in dim]
    scale = _factor(c, _count(c, c.shape(x.real), axes), normalization)
    for i, axis in enumerate(axes):
        x = _dft_of_axis(c, x, axis, not forward, scale if i == 0 else 1.0)
    return x if axes else _multiplied(c, x, scale)


@converts_complex("aten._fft_r2c.default")
def fft_r2c(c: Context, x: Expr, dim: list[int], normalization: int, onesided: bool) -> Pair:
    value = _computed(c, x, c.result.dtype)
    shape, rank = c.shape(x), c.rank(x)
    axes = [d % rank for d in dim]
    last, scale = axes[-1], _factor(c, _count(c, shape, axes), normalization)
    if not onesided:
        for i, axis in enumerate(reversed(axes)):
            value = _dft_of_axis(c, value, axis, False, scale if i == 0 else 1.0)
        return value
    size = shape[last]
    if isinstance(size, int):
        inner, outer = (scale, 1.0) if isinstance(scale, float) else (1.0, scale)
        real, imag = real_dft(c.emit, _axis_moved(c, value.real, last), inner)
        value = _multiplied(c, Pair(_axis_moved(c, real, last, True), _axis_moved(c, imag, last, True)), outer)
    else:
        value = _multiplied(c, _dynamic(c, value, last, c.out_shape()[last], False), scale)
    for axis in axes[:-1]:
        value = _dft_of_axis(c, value, axis, False, 1.0)
    return value


@converts_complex("aten._fft_c2r.default")
def fft_c2r(c: Context, x: Pair, dim: list[int], normalization: int, last_dim_size: Any) -> Expr:
    x = _computed(c, x, c.result.dtype)
    rank, out = c.rank(x.real), c.out_shape()
    axes = [d % rank for d in dim]
    last, scale = axes[-1], _factor(c, _count(c, out, axes), normalization)
    for axis in axes[:-1]:
        x = _dft_of_axis(c, x, axis, True, 1.0)
    size = out[last]
    if not isinstance(size, int):
        return _multiplied(c, Pair(_dynamic_to_real(c, x, last, size), None), scale).real
    inner, outer = (scale, 1.0) if isinstance(scale, float) else (1.0, scale)
    bins = size // 2 + 1
    parts = [None if p is None else c.slice(_axis_moved(c, p, last), rank - 1, 0, bins) for p in (x.real, x.imag)]
    found = half_to_real(c.emit, parts[0], parts[1], size, inner)
    return _multiplied(c, Pair(_axis_moved(c, found, last, True), None), outer).real
