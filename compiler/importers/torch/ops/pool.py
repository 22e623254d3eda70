"""Pooling. torch's ceil mode becomes padding behind the last window, so that every later stage sees plain windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, te, tirx
from tvm.script.ir_builder import tirx as T

from ..._imperative import imperative
from .._context import Context, Expr
from .._registry import converts
from .conv import per_axis
from .ordering import is_nan

OP = relax.op
_MAX = {1: OP.nn.max_pool1d, 2: OP.nn.max_pool2d, 3: OP.nn.max_pool3d}
_AVG = {1: OP.nn.avg_pool1d, 2: OP.nn.avg_pool2d, 3: OP.nn.avg_pool3d}


def _windows(
    c: Context, kernel_size: Any, stride: Any, padding: Any, dilation: Any, rank: int
) -> tuple[list[int], ...]:
    kernel = per_axis(kernel_size, rank)
    strides = per_axis(stride, rank) if stride not in (None, [], ()) else kernel
    return kernel, strides, per_axis(padding, rank), per_axis(dilation, rank)


def _behind(c: Context, x: Expr, kernel: list[int], strides: list[int], pads: list[int], dilations: list[int], out: list[Any],
            ceil_mode: bool) -> list[int]:  # fmt: skip
    """Padding behind each axis that makes exactly `out` windows fit, or on a dynamic size in ceil mode at least those."""
    behind = []
    for i, size in enumerate(c.shape(x)[-len(kernel) :]):
        reach = dilations[i] * (kernel[i] - 1) + 1
        if not ceil_mode:
            behind.append(pads[i])
        elif isinstance(size, int) and isinstance(out[i], int):
            behind.append(max((out[i] - 1) * strides[i] + reach - size - pads[i], pads[i]))
        else:
            behind.append(min(pads[i] + strides[i] - 1, reach - 1))
    return behind


def _first_windows(c: Context, y: Expr, out: list[Any]) -> Expr:
    """The first `out` windows along the last axes: `_behind` may have let in one that torch leaves out."""
    for axis, size in enumerate(out, c.rank(y) - len(out)):
        if not (isinstance(size, int) and isinstance(c.shape(y)[axis], int)):
            y = c.slice(y, axis, 0, size)
    return y


def _with_batch(c: Context, x: Expr, rank: int) -> tuple[Expr, bool]:
    unbatched = c.rank(x) == rank + 1
    return (c.reshape(x, [1, *c.shape(x)]) if unbatched else x), unbatched


def _max_pool(c: Context, x: Expr, rank: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
              out: list[Any]) -> Expr:  # fmt: skip
    kernel, strides, pads, dilations = _windows(c, kernel_size, stride, padding, dilation, rank)
    x, unbatched = _with_batch(c, x, rank)
    behind = _behind(c, x, kernel, strides, pads, dilations, out[-rank:], ceil_mode)
    y = c.emit(_MAX[rank](x, kernel, strides, [*pads, *behind], dilations))
    y = _first_windows(c, y, out[-rank:]) if ceil_mode else y
    return c.reshape(y, c.shape(y)[1:]) if unbatched else y


@converts("aten.max_pool1d.default", "aten.max_pool2d.default", "aten.max_pool3d.default")
def max_pool(c: Context, x: Expr, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
             ceil_mode: bool = False) -> Expr:  # fmt: skip
    rank = _rank_of(c)
    return _max_pool(c, x, rank, kernel_size, stride, padding, dilation, ceil_mode, c.out_shape())


@converts(
    "aten.max_pool2d_with_indices.default",
    "aten.max_pool3d_with_indices.default",
    "aten.max_pool1d_with_indices.default",
)
def max_pool_with_indices(c: Context, x: Expr, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
                          ceil_mode: bool = False) -> list[Any]:  # fmt: skip
    rank = _rank_of(c)
    if c.used(1):
        kernel, strides, pads, dilations = _windows(c, kernel_size, stride, padding, dilation, rank)

        def window(axis: int, i: Any, _: Any, __: Any) -> tuple[Any, Any, Any]:
            return i * strides[axis] - pads[axis], kernel[axis], dilations[axis]

        return _max_with_positions(c, x, rank, window)
    return [_max_pool(c, x, rank, kernel_size, stride, padding, dilation, ceil_mode, c.out_shape(0)), None]


def _max_with_positions(c: Context, x: Expr, rank: int, window: Callable[..., tuple[Any, Any, Any]]) -> list[Expr]:
    """The largest element of each window, and where it stands in its flat plane: the first of equal ones, NaN above all.
    window(axis, output position, input size, output size) is (begin, count, step)."""
    dtype, shape, out = c.dtype(x), c.shape(x), c.out_shape(0)
    lead: Any = 1
    for size in shape[: len(shape) - rank]:
        lead = lead * size
    planes = c.reshape(x, [lead, *shape[len(shape) - rank :]])

    def build(values: Any, extents: Any) -> Any:
        ins, outs = list(values.shape)[1:], list(extents)[1:]
        total, plane = _times(outs), _times(ins)

        def write(source: Any, best: Any, where: Any) -> None:
            with T.serial(0, extents[0] * total) as flat:
                places: list[Any] = []
                rest = tirx.floormod(flat, total)
                for axis in range(rank - 1, -1, -1):
                    places.insert(0, tirx.floormod(rest, outs[axis]))
                    rest = tirx.floordiv(rest, outs[axis])
                spans = [window(axis, places[axis], ins[axis], outs[axis]) for axis in range(rank)]
                best[flat] = -tirx.infinity(dtype)
                where[flat] = tirx.IntImm("int64", -1)
                with T.serial(0, _times([count for _, count, _ in spans])) as tap:
                    at: list[Any] = []
                    inside: list[Any] = []
                    left = tap
                    for begin, count, step in reversed(spans):
                        at.insert(0, begin + tirx.floormod(left, count) * step)
                        left = tirx.floordiv(left, count)
                    for position, size in zip(at, ins):
                        inside += [position >= 0, position < size]
                    place: Any = tirx.IntImm("int64", 0)
                    for position, size in zip(at, ins):
                        place = place * size + position
                    with T.If(tirx.all(*inside)):
                        with T.Then():
                            value = source[tirx.floordiv(flat, total) * plane + place]
                            with T.If(tirx.any(where[flat] < 0, value > best[flat], is_nan(value))):
                                with T.Then():
                                    best[flat] = value
                                    where[flat] = place

        return imperative([list(extents), list(extents)], [dtype, "int64"], [values], write, "max_with_positions")

    found = c.generated(build, planes, [lead, *out[len(out) - rank :]], name="max_with_positions")
    return [c.reshape(y, out) for y in found]


def _times(sizes: list[Any]) -> Any:
    total: Any = tirx.IntImm("int64", 1)
    for size in sizes:
        total = total * size
    return total


def _adaptive_window(_: int, i: Any, size: Any, count: Any) -> tuple[Any, Any, Any]:
    begin = tirx.floordiv(i * size, count)
    return begin, tirx.floordiv((i + 1) * size + count - 1, count) - begin, 1


def _rank_of(c: Context) -> int:
    """Spatial dimensions, from the operator's name."""
    assert c.node is not None
    name = str(c.node.target)
    return next(rank for rank in (1, 2, 3) if f"pool{rank}d" in name)


@converts("aten.avg_pool1d.default", "aten.avg_pool2d.default", "aten.avg_pool3d.default")
def avg_pool(c: Context, x: Expr, kernel_size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
             count_include_pad: bool = True, divisor_override: Any = None) -> Expr:  # fmt: skip
    rank = _rank_of(c)
    kernel, strides, pads, dilations = _windows(c, kernel_size, stride, padding, 1, rank)
    x, unbatched = _with_batch(c, x, rank)
    behind = _behind(c, x, kernel, strides, pads, dilations, c.out_shape()[-rank:], ceil_mode)
    counts_padding = count_include_pad or divisor_override is not None
    if counts_padding and (behind != pads or (divisor_override is not None and any(pads))):
        # What ceil mode adds does not count, given padding does: write the given padding out, and count no other.
        widths = [0, 0, 0, 0] + [w for p in pads for w in (p, p)]
        if divisor_override is not None:
            widths = [0, 0, 0, 0] + [w for p, b in zip(pads, behind) for w in (p, b)]
            behind = pads
        x = c.emit(OP.nn.pad(x, widths, "constant", 0.0))
        behind, pads, counts_padding = [b - p for b, p in zip(behind, pads)], [0] * rank, False
    y = c.emit(_AVG[rank](x, kernel, strides, [*pads, *behind], dilations, False, counts_padding))
    y = _first_windows(c, y, c.out_shape()[-rank:]) if ceil_mode else y
    if divisor_override is not None:
        count = 1
        for extent in kernel:
            count *= extent
        y = c.emit(OP.multiply(y, c.const(count / divisor_override, c.dtype(y))))
    return c.reshape(y, c.shape(y)[1:]) if unbatched else y


@converts("aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default",
          "aten.adaptive_avg_pool3d.default", "aten._adaptive_avg_pool3d.default")  # fmt: skip
def adaptive_avg_pool(c: Context, x: Expr, output_size: Any) -> Expr:
    return _adaptive(c, x, _rank_of(c), c.out_shape(), OP.mean, _AVG)


@converts("aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool3d.default")
def adaptive_max_pool(c: Context, x: Expr, output_size: Any) -> list[Any]:
    if c.used(1):
        return _max_with_positions(c, x, _rank_of(c), _adaptive_window)
    return [_adaptive(c, x, _rank_of(c), c.out_shape(0), OP.max, _MAX), None]


def _open_average(c: Context, x: Expr, first: int, goal: list[Any]) -> Expr:
    """Averages over torch's windows where only a run knows the extents, one axis after the other: all windows of one output have one shape."""
    dtype = c.dtype(x)
    wide = "float32" if dtype in ("float16", "bfloat16") else dtype
    x = c.cast(x, wide)
    for axis, count in enumerate(goal, first):
        shape = [*c.shape(x)]
        shape[axis] = count

        def build(t: Any, dims: Any, axis: int = axis) -> Any:
            size, count = t.shape[axis], dims[axis]
            k = te.reduce_axis((0, tirx.floordiv(size, count) + 2), name="k")

            def element(*i: Any) -> Any:
                begin, length, _ = _adaptive_window(axis, i[axis], size, count)
                at = tirx.min(begin + k, size - 1)
                part = t(*i[:axis], at, *i[axis + 1 :]) / tirx.Cast(wide, length)
                return te.sum(tirx.Select(k < length, part, tirx.FloatImm(wide, 0.0)), axis=k)

            return te.compute(dims, element, name="adaptive_average")

        x = c.emit_te(build, x, shape)
    return c.cast(x, dtype)


def _adaptive(c: Context, x: Expr, rank: int, out: list[Any], reduction: Any, pools: Any) -> Expr:
    """Whole-image windows are a reduction, equal ones a pooling; else each axis is cut into torch's windows."""
    goal = out[-rank:]
    first = c.rank(x) - rank
    if all(isinstance(size, int) and size == 1 for size in goal):
        return c.emit(reduction(x, list(range(first, c.rank(x))), True))
    sizes = c.shape(x)[first:]
    if not all(isinstance(size, int) for size in (*sizes, *goal)):
        return (
            _open_average(c, x, first, goal)
            if reduction is OP.mean
            else _max_with_positions(c, x, rank, _adaptive_window)[0]
        )
    if all(size % g == 0 for size, g in zip(sizes, goal)):
        kernel = [size // g for size, g in zip(sizes, goal)]
        batched, unbatched = _with_batch(c, x, rank)
        y = c.emit(pools[rank](batched, kernel, kernel, [0] * (2 * rank)))
        return c.reshape(y, c.shape(y)[1:]) if unbatched else y
    for axis, size, count in zip(range(first, c.rank(x)), sizes, goal):
        windows = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        parts = [c.emit(reduction(c.slice(x, axis, low, high - low), [axis], True)) for low, high in windows]
        x = c.emit(OP.concat(parts, axis=axis)) if len(parts) > 1 else parts[0]
    return x
