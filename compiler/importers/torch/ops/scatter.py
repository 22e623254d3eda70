"""Operators that write, or choose how many elements there are, by data: put, index_reduce, masks, nonzero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx
from tvm.script.ir_builder import tirx as T

from ..._imperative import flat_extents, imperative, variable
from .._context import Context, Expr
from .._dtypes import is_float
from .._registry import NotConvertible, converts
from .ordering import is_nan

OP = relax.op


def product(shape: Sequence[Any]) -> Any:
    total: Any = 1
    for size in shape:
        total = total * size
    return total


def _integer(value: int) -> Any:
    return tirx.IntImm("int64", value)


def _inside(index: Any, extent: Any) -> Any:
    """A position, counted from the end if negative; one that is out of range, where the run is refused, is clamped."""
    index = tirx.Cast("int64", index)
    index = tirx.if_then_else(index < 0, index + extent, index)
    return tirx.max(tirx.min(index, extent - 1), _integer(0))


@converts("aten.put.default")
def put(c: Context, x: Expr, index: Expr, source: Expr, accumulate: bool = False) -> Expr:
    """x, flat, with x[index] = source."""
    shape = c.shape(x)
    flat = [c.reshape(v, [product(c.shape(v))]) for v in (x, index, source)]
    c.check_indices(index, product(shape), wraps=True)

    def build(values: Any, places: Any, new: Any) -> Any:
        extent = values.shape[0]

        def write(old: Any, at: Any, source: Any, out: Any) -> None:
            with T.serial(0, extent) as i:
                out[i] = old[i]
            with T.serial(0, places.shape[0]) as i:
                place = _inside(at[i], extent)
                out[place] = out[place] + source[i] if accumulate else source[i]

        return imperative([[extent]], [c.dtype(x)], [values, places, new], write, "put")[0]

    return c.reshape(c.generated(build, *flat, name="put")[0], shape)


def combination(reduce: str, dtype: str) -> Callable[[Any, Any], Any]:
    """How a scatter joins the old and the new element."""
    if reduce == "update":
        return lambda old, new: new
    if reduce in ("sum", "mean", "add"):
        return lambda old, new: old + new
    if reduce in ("prod", "mul"):
        return lambda old, new: old * new
    if reduce in ("amax", "amin"):

        def extreme(old: Any, new: Any) -> Any:
            wins = old >= new if reduce == "amax" else old <= new
            return tirx.if_then_else(tirx.any(wins, is_nan(old)), old, new)

        return extreme
    raise NotConvertible(f"the reduction {reduce}")


@converts("aten.index_reduce.default")
def index_reduce(c: Context, x: Expr, dim: int, index: Expr, source: Expr, reduce: str, include_self: bool = True) -> Expr:  # fmt: skip
    """Rows of source joined into the rows of x that index names."""
    shape = c.shape(x)
    wide = shape or [1]
    axis = dim % len(wide)
    given = [
        c.reshape(x, wide),
        c.reshape(index, [product(c.shape(index))]),
        source if shape else c.reshape(source, [1]),
    ]
    join, dtype = combination({"mean": "sum"}.get(reduce, reduce), c.dtype(x)), c.dtype(x)
    c.check_indices(index, wide[axis])

    def build(values: Any, places: Any, new: Any) -> Any:
        before, extent, after = flat_extents(values.shape, axis)
        rows = places.shape[0]

        def write(old: Any, at: Any, source: Any, out: Any, seen: Any) -> None:
            with T.serial(0, before * extent * after) as i:
                out[i] = old[i]
                seen[i] = _integer(1 if include_self else 0)
            with T.serial(0, before) as b, T.serial(0, rows) as r, T.serial(0, after) as a:
                place = (b * extent + _inside(at[r], extent)) * after + a
                value = source[(b * rows + r) * after + a]
                out[place] = tirx.if_then_else(seen[place] == 0, value, join(out[place], value))
                seen[place] = seen[place] + 1
            if reduce == "mean":
                with T.serial(0, before * extent * after) as i:
                    count = tirx.Cast(dtype, tirx.max(seen[i], _integer(1)))
                    out[i] = out[i] / count if is_float(dtype) else tirx.floordiv(out[i], count)

        return imperative([values.shape, values.shape], [dtype, "int64"], [values, places, new], write, "index_reduce")

    return c.reshape(c.generated(build, *given, name="index_reduce")[0], shape)


@converts("aten.scatter_reduce.two")
def scatter_reduce(c: Context, x: Expr, dim: int, index: Expr, src: Expr, reduce: str, include_self: bool = True) -> Expr:  # fmt: skip
    """out[.., index[i], ..] = src[i] joined with what is there, for all positions i of index."""
    shape = c.shape(x)
    given = [v if c.rank(v) else c.reshape(v, [1]) for v in (x, index, src)]
    axis, dtype = dim % c.rank(given[0]), c.dtype(x)
    join = combination({"mean": "sum"}.get(reduce, reduce), dtype)
    c.check_indices(given[1], c.shape(given[0])[axis])

    def build(values: Any, places: Any, new: Any) -> Any:
        def write(old: Any, at: Any, source: Any, out: Any, seen: Any) -> None:
            with T.serial(0, product(values.shape)) as i:
                out[i] = old[i]
                seen[i] = _integer(1 if include_self else 0)
            with T.serial(0, product(places.shape)) as i:
                position: list[Any] = []
                rest = i
                for size in reversed(places.shape):
                    position.insert(0, tirx.floormod(rest, size))
                    rest = tirx.floordiv(rest, size)
                value = source[_offset(position, new.shape)]
                position[axis] = _inside(at[i], values.shape[axis])
                place = _offset(position, values.shape)
                out[place] = tirx.if_then_else(seen[place] == 0, value, join(out[place], value))
                seen[place] = seen[place] + 1
            if reduce == "mean":
                with T.serial(0, product(values.shape)) as i:
                    count = tirx.Cast(dtype, tirx.max(seen[i], _integer(1)))
                    out[i] = out[i] / count if is_float(dtype) else tirx.floordiv(out[i], count)

        return imperative(
            [values.shape, values.shape], [dtype, "int64"], [values, places, new], write, "scatter_reduce"
        )

    return c.reshape(c.generated(build, *given, name="scatter_reduce")[0], shape)


def _offset(position: Sequence[Any], shape: Sequence[Any]) -> Any:
    total: Any = _integer(0)
    for p, size in zip(position, shape):
        total = total * size + p
    return total


# Masks, and sizes that the data decides.


def _mask(c: Context, x: Expr) -> Expr:
    return c.cast(x, "bool")


def _flat(c: Context, x: Expr) -> Expr:
    return c.reshape(x, [product(c.shape(x))])


def positions(c: Context, mask: Expr, size: Any) -> tuple[Expr, Any]:
    """int64: the flat positions of what is true, and how many there are: torch's symbol `size`, which is bound to the number."""

    def build(flags: Any) -> Any:
        length = flags.shape[0]

        def write(source: Any, out: Any, total: Any) -> None:
            count = variable("int64")
            count[0] = _integer(0)
            with T.serial(0, length) as i:
                with T.If(source[i]):
                    with T.Then():
                        out[count[0]] = i
                        count[0] = count[0] + 1
            total[0] = count[0]

        return imperative([[length], [1]], ["int64", "int64"], [flags], write, "positions")

    found, total = c.generated(build, _flat(c, mask), name="positions")
    count = c.counted_size(size, total)
    return c.slice(found, 0, 0, count), count


def coordinates(c: Context, mask: Expr, size: Any) -> list[Expr]:
    """The position along each axis of what is true in the mask."""
    flat, _ = positions(c, mask, size)
    found: list[Expr] = []
    for extent in reversed(c.shape(mask)):
        extent = c.tensor(extent, "int64")
        found.insert(0, c.emit(OP.floor_mod(flat, extent)))
        flat = c.emit(OP.floor_divide(flat, extent))
    return found


@converts("aten.nonzero.default", "aten.argwhere.default")
def nonzero(c: Context, x: Expr) -> Expr:
    size = c.result.shape[0]
    if c.rank(x) == 0:
        _, count = positions(c, _mask(c, x), size)
        return c.zeros([count, 0], "int64")
    columns = [c.reshape(column, [*c.shape(column), 1]) for column in coordinates(c, _mask(c, x), size)]
    return c.emit(OP.concat(columns, axis=1)) if len(columns) > 1 else columns[0]


@converts("aten.nonzero_static.default")
def nonzero_static(c: Context, x: Expr, size: Any, fill_value: int = -1) -> Expr:
    """The first `size` positions, filled up."""
    rank, flat = c.rank(x), _flat(c, _mask(c, x))
    extents = [c.dim(s) for s in c.fakes["x"].shape]
    if not isinstance(size, int) or not all(isinstance(e, int) for e in extents):
        raise NotConvertible("a dynamic size")
    if rank == 0 or size == 0:
        return c.zeros([size, rank], "int64")

    def build(flags: Any) -> Any:
        def write(source: Any, out: Any) -> None:
            count = variable("int64")
            count[0] = _integer(0)
            with T.serial(0, size * rank) as i:
                out[i] = _integer(fill_value)
            with T.serial(0, flags.shape[0]) as i:
                with T.If(tirx.all(source[i], count[0] < size)):
                    with T.Then():
                        rest: Any = i
                        for axis in range(rank - 1, -1, -1):
                            out[count[0] * rank + axis] = tirx.floormod(rest, extents[axis])
                            rest = tirx.floordiv(rest, extents[axis])
                        count[0] = count[0] + 1

        return imperative([[size, rank]], ["int64"], [flags], write, "nonzero_static")[0]

    return c.generated(build, flat, name="nonzero_static")[0]


def _common(c: Context, *tensors: Expr) -> list[Expr]:
    """The tensors broadcast against each other."""
    rank = max(c.rank(t) for t in tensors)
    shapes = [[1] * (rank - c.rank(t)) + c.shape(t) for t in tensors]
    shape = [next((s for s in sizes if not (isinstance(s, int) and s == 1)), 1) for sizes in zip(*shapes)]
    return [c.broadcast(t, shape) for t in tensors]


@converts("aten.masked_select.default")
def masked_select(c: Context, x: Expr, mask: Expr) -> Expr:
    values, flags = _common(c, x, _mask(c, mask))
    found, _ = positions(c, flags, c.result.shape[0])
    return c.take(_flat(c, values), found, 0)


@converts("aten.masked_scatter.default")
def masked_scatter(c: Context, x: Expr, mask: Expr, source: Expr) -> Expr:
    """Elements of source, in order, at what is true in the mask."""
    shape = c.out_shape()
    given = [_flat(c, c.broadcast(x, shape)), _flat(c, c.broadcast(_mask(c, mask), shape)), _flat(c, source)]

    def build(values: Any, flags: Any, new: Any) -> Any:
        def write(old: Any, mask: Any, source: Any, out: Any) -> None:
            count = variable("int64")
            count[0] = _integer(0)
            with T.serial(0, values.shape[0]) as i:
                out[i] = old[i]
                with T.If(tirx.all(mask[i], count[0] < new.shape[0])):
                    with T.Then():
                        out[i] = source[count[0]]
                        count[0] = count[0] + 1

        return imperative([values.shape], [c.dtype(x)], [values, flags, new], write, "masked_scatter")[0]

    return c.reshape(c.generated(build, *given, name="masked_scatter")[0], shape)


@converts("aten.diagonal_scatter.default")
def diagonal_scatter(c: Context, x: Expr, src: Expr, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Expr:
    first, second = dim1 % c.rank(x), dim2 % c.rank(x)

    def build(values: Any, diagonal: Any) -> Any:
        def element(*i: Any) -> Any:
            rest = [i[a] for a in range(len(i)) if a not in (first, second)]
            here = i[second] - i[first] == offset
            return tirx.if_then_else(here, diagonal(*rest, i[first] - max(-offset, 0)), values(*i))

        return te.compute(values.shape, element, name="diagonal_scatter")

    return c.generated(build, x, src, name="diagonal_scatter")[0]


@converts("aten.as_strided_scatter.default", "prims.as_strided_scatter.default")
def as_strided_scatter(c: Context, x: Expr, src: Expr, size: list[Any], stride: list[Any], storage_offset: Any = None) -> Expr:  # fmt: skip
    """x with src at the places of a view; where places coincide, the last one in row-major order stays."""
    numbers = [*size, *stride, storage_offset or 0]
    if (
        not all(isinstance(v, int) for v in numbers)
        or not c.fakes["x"].is_contiguous()
        or c.fakes["x"].storage_offset()
    ):
        raise NotConvertible("a view of memory that is not dense, or with strides that are dynamic")
    count = product(size)
    flat = [_flat(c, x), c.reshape(c.broadcast(src, size), [count])]

    def build(values: Any, new: Any) -> Any:
        def write(old: Any, source: Any, out: Any) -> None:
            with T.serial(0, values.shape[0]) as i:
                out[i] = old[i]
            with T.serial(0, count) as i:
                place, rest = _integer(storage_offset or 0), i
                for extent, step in zip(reversed(size), reversed(stride)):
                    place = place + tirx.floormod(rest, extent) * step
                    rest = tirx.floordiv(rest, extent)
                out[place] = source[i]

        return imperative([values.shape], [c.dtype(x)], [values, new], write, "as_strided_scatter")[0]

    return c.reshape(c.generated(build, *flat, name="as_strided_scatter")[0], c.shape(x))


@converts("aten.repeat_interleave.Tensor")
def repeat_interleave(c: Context, repeats: Expr, output_size: Any = None) -> Expr:
    """The number i as often as repeats[i] says."""
    size, dtype = c.result.shape[0], c.dtype(repeats)
    count = c.counted_size(size, c.emit(OP.sum(c.cast(repeats, "int64"), [0], False)))

    def build(times: Any, extents: Any) -> Any:
        def write(source: Any, out: Any) -> None:
            at = variable("int64")
            at[0] = _integer(0)
            with T.serial(0, times.shape[0]) as i, T.serial(0, tirx.Cast("int64", source[i])):
                with T.If(at[0] < extents[0]):
                    with T.Then():
                        out[at[0]] = tirx.Cast(dtype, i)
                        at[0] = at[0] + 1

        return imperative([[extents[0]]], [dtype], [times], write, "repeat_interleave")[0]

    return c.generated(build, repeats, [count], name="repeat_interleave")[0]


@converts("aten.segment_reduce.default")
def segment_reduce(c: Context, data: Expr, reduce: str, lengths: Any = None, offsets: Any = None, axis: int = 0,
                   unsafe: bool = False, initial: Any = None) -> Expr:  # fmt: skip
    """Segments of an axis, one behind the other, each joined into one element; lengths [..., S] or offsets [..., S + 1]."""
    dtype, shape = c.dtype(data), c.shape(data)
    if dtype not in ("float32", "float64"):
        raise NotConvertible(f"segments of {dtype}")
    limits = offsets if lengths is None else lengths
    axis, count = axis % len(shape), c.out_shape()[axis % len(shape)]
    given = [c.reshape(data, [product(shape[:axis]), shape[axis], product(shape[axis + 1 :])]),
             c.cast(c.reshape(limits, [product(shape[:axis]), c.shape(limits)[-1]]), "int64")]  # fmt: skip
    join = combination({"mean": "sum", "max": "amax", "min": "amin"}.get(reduce, reduce), dtype)
    infinity = tirx.infinity(dtype)
    start = {"max": -infinity, "min": infinity, "prod": tirx.FloatImm(dtype, 1.0)}.get(
        reduce, tirx.FloatImm(dtype, 0.0)
    )
    if initial is not None:
        start = tirx.FloatImm(dtype, float(initial))

    def build(values: Any, limits: Any, extents: Any) -> Any:
        before, length, after = values.shape
        segments, width = extents[0], limits.shape[1]

        def write(source: Any, bounds: Any, out: Any) -> None:
            total, begin, end = variable(dtype), variable("int64"), variable("int64")
            with T.serial(0, before) as b, T.serial(0, after) as a:
                end[0] = _integer(0)
                with T.serial(0, segments) as s:
                    if lengths is None:
                        begin[0] = bounds[b * width + s]
                        end[0] = tirx.min(bounds[b * width + s + 1], length)
                    else:
                        begin[0] = end[0]
                        end[0] = tirx.min(end[0] + bounds[b * width + s], length)
                    total[0] = start
                    with T.serial(0, tirx.max(end[0] - begin[0], _integer(0))) as i:
                        total[0] = join(total[0], source[(b * length + begin[0] + i) * after + a])
                    if reduce == "mean":
                        many = tirx.Cast(dtype, end[0] - begin[0])
                        none = infinity - infinity if initial is None else total[0]
                        total[0] = tirx.if_then_else(end[0] > begin[0], total[0] / many, none)
                    out[(b * segments + s) * after + a] = total[0]

        return imperative([[before, segments, after]], [dtype], [values, limits], write, "segment_reduce")[0]

    return c.reshape(c.generated(build, *given, [count], name="segment_reduce")[0], c.out_shape())
