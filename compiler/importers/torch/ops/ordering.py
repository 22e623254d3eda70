"""Operators that depend on the order of elements: medians, running extrema, searches in sorted data, histograms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import relax, tirx
from tvm.script.ir_builder import tirx as T

from ..._imperative import flat_extents, imperative, variable
from ..._top_k import place_in_lines
from .._context import Context, Expr
from .._dtypes import is_float
from .._registry import NotConvertible, converts
from .reduce import ordered

OP = relax.op


def lines(
    c: Context,
    inputs: list[Expr],
    axis: int,
    dtypes: list[str],
    write: Callable[..., None],
    name: str,
    extent: Any = None,
) -> list[Expr]:
    """Outputs of the inputs' shape (`extent` along the axis instead) that write(readers, writers, length) fills line by line: a reader
    maps a position of the line to its element, a writer is called with (position, value)."""
    shape = c.shape(inputs[0])
    if not shape:
        found = lines(c, [c.reshape(x, [1]) for x in inputs], 0, dtypes, write, name, extent)
        return [c.reshape(y, [] if extent is None else [extent]) for y in found]

    def build(*tensors: Any) -> Any:
        before, length, after = flat_extents(tensors[0].shape, axis)
        out = list(tensors[0].shape)
        out[axis] = length if extent is None else extent

        def fill(*buffers: Any) -> None:
            with T.serial(0, before) as b, T.serial(0, after) as a:
                sources = [_reader(s, b * length * after + a, after) for s in buffers[: len(tensors)]]
                targets = [_writer(t, b * out[axis] * after + a, after) for t in buffers[len(tensors) :]]
                write(sources, targets, length)

        found = imperative([out] * len(dtypes), dtypes, list(tensors), fill, name)
        return found if len(found) > 1 else found[0]

    return c.generated(build, *inputs, name=name)


def _reader(buffer: Any, base: Any, stride: Any) -> Callable[[Any], Any]:
    return lambda position: buffer[base + position * stride]


def _writer(buffer: Any, base: Any, stride: Any) -> Callable[[Any, Any], None]:
    def write(position: Any, value: Any) -> None:
        buffer[base + position * stride] = value

    return write


def is_nan(value: Any) -> Any:
    dtype = str(value.ty.dtype)
    if not is_float(dtype):
        return tirx.IntImm("bool", 0)
    return tirx.isnan(value if dtype in ("float32", "float64") else tirx.Cast("float32", value))


def _integer(value: int) -> Any:
    return tirx.IntImm("int64", value)


# Running.


def _running_extreme(largest: bool) -> Any:
    def convert(c: Context, x: Expr, dim: int) -> list[Expr]:
        dtype = c.dtype(x)
        if dtype == "bool":
            values, positions = convert(c, c.emit(OP.astype(x, "int8")), dim)
            return [c.cast(values, "bool"), positions]

        def write(sources: Any, targets: Any, length: Any) -> None:
            best, at = variable(dtype), variable("int64")
            with T.serial(0, length) as i:
                new = sources[0](i)
                better = new >= best[0] if largest else new <= best[0]
                with T.If(tirx.any(i == 0, is_nan(new), tirx.all(tirx.Not(is_nan(best[0])), better))):
                    with T.Then():
                        best[0] = new
                        at[0] = i
                targets[0](i, best[0])
                targets[1](i, at[0])

        return lines(c, [x], dim % max(c.rank(x), 1), [dtype, "int64"], write, "cummax" if largest else "cummin")

    return convert


converts("aten.cummax.default")(_running_extreme(True))
converts("aten.cummin.default")(_running_extreme(False))


@converts("aten.logcumsumexp.default")
def logcumsumexp(c: Context, x: Expr, dim: int) -> Expr:
    dtype = c.dtype(x)

    def write(sources: Any, targets: Any, length: Any) -> None:
        total, new = variable("float64"), variable("float64")
        total[0] = -tirx.infinity("float64")
        with T.serial(0, length) as i:
            new[0] = tirx.Cast("float64", sources[0](i))
            high, low = tirx.max(total[0], new[0]), tirx.min(total[0], new[0])
            tail = tirx.call_pure_extern("float64", "log1p", tirx.exp(low - high))
            total[0] = tirx.if_then_else(tirx.any(is_nan(new[0]), is_nan(total[0])), new[0] + total[0],
                                         tirx.if_then_else(low == high, high + math.log(2), high + tail))  # fmt: skip
            targets[0](i, tirx.Cast(dtype, total[0]))

    return lines(c, [x], dim % max(c.rank(x), 1), [dtype], write, "logcumsumexp")[0]


# Order statistics; NaN stands last.


def sorted_lines(c: Context, x: Expr, axis: int) -> tuple[Expr, Expr]:
    values, order = ordered(c, x, axis, c.shape(x)[axis], largest=False)
    return values, order


def _picked_in_lines(c: Context, x: Expr, dim: int, keepdim: bool, pick: str, place: int = 0) -> list[Expr]:
    """The element of each line, and its position in the line, that `pick` names: see place_in_lines."""
    rank = c.rank(x)
    if rank == 0:
        return [x, c.const(0, "int64")]
    axis = dim % rank
    assert c.node is not None
    found = place_in_lines(c.emit, x, axis, pick, place=place, name=c.node.name)
    return found if keepdim else [_without(c, y, axis) for y in found]


def _without(c: Context, y: Expr, axis: int) -> Expr:
    shape = c.shape(y)
    return c.reshape(y, [*shape[:axis], *shape[axis + 1 :]])


def _one_of_each_line(c: Context, values: Expr, order: Expr, axis: int, keepdim: bool, write: Callable[..., None],
                      name: str) -> list[Expr]:  # fmt: skip
    """An element of each line, and its position, as write(readers of both, writers of both, length) finds them."""
    found = lines(c, [values, order], axis, [c.dtype(values), "int64"], write, name, extent=1)
    return found if keepdim else [_without(c, y, axis) for y in found]


def _flat(c: Context, x: Expr) -> Expr:
    total: Any = 1
    for size in c.shape(x):
        total = total * size
    return c.reshape(x, [total])


@converts("aten.median.default")
def median(c: Context, x: Expr) -> Expr:
    return _picked_in_lines(c, _flat(c, x), 0, False, "median")[0]


@converts("aten.nanmedian.default")
def nanmedian(c: Context, x: Expr) -> Expr:
    return _picked_in_lines(c, _flat(c, x), 0, False, "nanmedian")[0]


@converts("aten.median.dim")
def median_dim(c: Context, x: Expr, dim: int, keepdim: bool = False) -> list[Expr]:
    return _picked_in_lines(c, x, dim, keepdim, "median")


@converts("aten.nanmedian.dim")
def nanmedian_dim(c: Context, x: Expr, dim: int, keepdim: bool = False) -> list[Expr]:
    return _picked_in_lines(c, x, dim, keepdim, "nanmedian")


@converts("aten.kthvalue.default")
def kthvalue(c: Context, x: Expr, k: Any, dim: int = -1, keepdim: bool = False) -> list[Expr]:
    if not isinstance(k, int):
        raise NotConvertible("a dynamic position")
    return _picked_in_lines(c, x, dim, keepdim, "kth", k - 1)


@converts("aten.mode.default")
def mode(c: Context, x: Expr, dim: int = -1, keepdim: bool = False) -> list[Expr]:
    """The most frequent element of a line, the smallest of several, and where it stands last."""
    rank = c.rank(x)
    if rank == 0:
        return [x, c.const(0, "int64")]
    axis = dim % rank
    values, order = sorted_lines(c, x, axis)

    def write(sources: Any, targets: Any, length: Any) -> None:
        count, best = variable("int64"), variable("int64")
        count[0] = _integer(0)
        best[0] = _integer(0)
        with T.serial(0, length) as i:
            same = sources[0](i) == sources[0](tirx.max(i - 1, _integer(0)))
            count[0] = tirx.if_then_else(same, count[0] + 1, _integer(1))
            with T.If(count[0] > best[0]):
                with T.Then():
                    best[0] = count[0]
                    targets[0](0, sources[0](i))
                    targets[1](0, sources[1](i))

    return _one_of_each_line(c, values, order, axis, keepdim, write, "mode")


# Search.


def _places(c: Context, sequence: Expr, values: Any, right: bool) -> Expr:
    """How many elements of the sequence's last axis stand before each value; NaN stands last."""
    dtype = c.dtype(sequence)
    values = c.tensor(values, dtype)
    if c.dtype(values) != dtype:
        raise NotConvertible("values of another dtype than the sequence")
    shape, have = c.shape(sequence), c.shape(values)
    if len(shape) > 1:
        values = c.reshape(values, [*have, 1])
        sequence = c.reshape(sequence, [*shape[:-1], 1, shape[-1]])
    else:
        values = c.reshape(values, [*have, 1])
    behind = c.emit((OP.greater if right else OP.greater_equal)(sequence, values))
    before = c.emit(OP.astype(c.emit(OP.logical_not(behind)), "int64"))
    return c.cast(c.emit(OP.sum(before, [c.rank(before) - 1], False)), c.out_dtype())


@converts("aten.searchsorted.Tensor", "aten.searchsorted.Scalar")
def searchsorted(c: Context, sorted_sequence: Expr, x: Any, out_int32: bool = False, right: bool = False, side: Any = None,
                 sorter: Any = None) -> Expr:  # fmt: skip
    if sorter is not None:
        sorted_sequence = c.emit(OP.gather_elements(sorted_sequence, c.cast(sorter, "int64"), c.rank(sorter) - 1))
    return _places(c, sorted_sequence, x, right or side == "right")


@converts("aten.bucketize.Tensor", "aten.bucketize.Scalar")
def bucketize(c: Context, x: Any, boundaries: Expr, out_int32: bool = False, right: bool = False) -> Expr:
    return _places(c, boundaries, x, right)


@converts("aten.histc.default")
def histc(c: Context, x: Expr, bins: int = 100, min: Any = 0, max: Any = 0) -> Expr:
    """How many elements fall into each of `bins` equal parts of [min, max]; of the data's own range where the two are equal."""
    dtype = c.dtype(x)
    if not is_float(dtype) or not isinstance(bins, int):
        raise NotConvertible(f"counts of {dtype}")
    flat = _flat(c, x)
    if min == max:
        low, high = c.emit(OP.min(flat, [0], False)), c.emit(OP.max(flat, [0], False))
        equal = c.emit(OP.equal(low, high))
        one = c.const(1.0, dtype)
        low, high = (
            c.where(equal, c.emit(OP.subtract(low, one)), low),
            c.where(equal, c.emit(OP.add(high, one)), high),
        )
    else:
        low, high = c.const(float(min), dtype), c.const(float(max), dtype)
    return _histogram(c, flat, c.reshape(low, [1]), c.reshape(high, [1]), bins)


def _histogram(c: Context, flat: Expr, low: Expr, high: Expr, bins: int) -> Expr:
    dtype = c.dtype(flat)

    def build(values: Any, low_end: Any, high_end: Any) -> Any:
        def write(source: Any, a: Any, b: Any, out: Any) -> None:
            with T.serial(0, bins) as k:
                out[k] = tirx.FloatImm(dtype, 0.0)
            with T.serial(0, values.shape[0]) as i:
                with T.If(tirx.all(source[i] >= a[0], source[i] <= b[0])):
                    with T.Then():
                        at = tirx.Cast("int64", (source[i] - a[0]) * tirx.FloatImm(dtype, float(bins)) / (b[0] - a[0]))
                        place = tirx.min(at, _integer(bins - 1))
                        out[place] = out[place] + tirx.FloatImm(dtype, 1.0)

        return imperative([[bins]], [dtype], [values, low_end, high_end], write, "histc")[0]

    return c.generated(build, flat, low, high, name="histc")[0]


@converts("aten.bincount.default")
def bincount(c: Context, x: Expr, weights: Any = None, minlength: int = 0) -> Expr:
    raise NotConvertible("a number of bins that only the data decides")


@converts("aten.unique_consecutive.default")
def unique_consecutive(c: Context, x: Expr, return_inverse: bool = False, return_counts: bool = False, dim: Any = None) -> list[Any]:  # fmt: skip
    if dim is not None and c.rank(x) != 1:
        raise NotConvertible("an axis")
    flat = _flat(c, x)
    return _grouped(c, flat, None, c.shape(x))


@converts("aten._unique2.default")
def unique2(
    c: Context, x: Expr, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> list[Any]:
    values, order = sorted_lines(c, _flat(c, x), 0)
    return _grouped(c, values, order, c.shape(x))


@converts("aten.unique_dim.default")
def unique_dim(c: Context, x: Expr, dim: int, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False) -> list[Any]:  # fmt: skip
    if c.rank(x) != 1:
        raise NotConvertible("an axis")
    return unique2(c, x)


def _grouped(c: Context, flat: Expr, order: Expr | None, shape: list[Any]) -> list[Any]:
    """(first of each run of equal elements, the run of each element, the length of each run); `order` is where elements come from."""
    dtype = c.dtype(flat)
    given = [flat] if order is None else [flat, order]

    def build(values: Any, *more: Any) -> Any:
        length = values.shape[0]

        def write(source: Any, *rest: Any) -> None:
            inverse, firsts, counts, total = rest[-4:]
            group = variable("int64")
            group[0] = _integer(-1)
            with T.serial(0, length) as i:
                with T.If(tirx.any(i == 0, tirx.Not(source[i] == source[tirx.max(i - 1, _integer(0))]))):
                    with T.Then():
                        group[0] = group[0] + 1
                        firsts[group[0]] = source[i]
                        counts[group[0]] = _integer(0)
                counts[group[0]] = counts[group[0]] + 1
                inverse[rest[0][i] if more else i] = group[0]
            total[0] = group[0] + 1

        kinds = ["int64", dtype, "int64", "int64"]
        return imperative([[length], [length], [length], [1]], kinds, [values, *more], write, "unique")

    inverse, firsts, counts, total = c.generated(build, *given, name="unique")
    count = c.counted_size(c.result[0].shape[0], total)
    wants = [c.used(1), c.used(2)]
    return [
        c.slice(firsts, 0, 0, count),
        c.reshape(inverse, shape) if wants[0] and len(c.result[1].shape) == len(shape) else None,
        c.slice(counts, 0, 0, count) if wants[1] else None,
    ]
