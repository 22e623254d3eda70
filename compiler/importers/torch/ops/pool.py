"""Pooling. torch's ceil mode becomes padding behind the last window, so that every later stage sees plain windows."""

from __future__ import annotations

from typing import Any

from tvm import relax

from .._context import Context, Expr
from .._registry import NotConvertible, converts
from .conv import spread

OP = relax.op
_MAX = {1: OP.nn.max_pool1d, 2: OP.nn.max_pool2d, 3: OP.nn.max_pool3d}
_AVG = {1: OP.nn.avg_pool1d, 2: OP.nn.avg_pool2d, 3: OP.nn.avg_pool3d}


def _windows(
    c: Context, kernel_size: Any, stride: Any, padding: Any, dilation: Any, rank: int
) -> tuple[list[int], ...]:
    kernel = spread(kernel_size, rank)
    strides = spread(stride, rank) if stride not in (None, [], ()) else kernel
    return kernel, strides, spread(padding, rank), spread(dilation, rank)


def _behind(c: Context, x: Expr, kernel: list[int], strides: list[int], pads: list[int], dilations: list[int], out: list[Any],
            ceil_mode: bool) -> list[int]:  # fmt: skip
    """Padding behind each axis that makes exactly `out` windows fit."""
    behind = []
    for i, size in enumerate(c.shape(x)[-len(kernel) :]):
        reach = dilations[i] * (kernel[i] - 1) + 1
        if not ceil_mode:
            behind.append(pads[i])
        elif isinstance(size, int) and isinstance(out[i], int):
            behind.append(max((out[i] - 1) * strides[i] + reach - size - pads[i], pads[i]))
        else:
            raise NotConvertible("ceil_mode on a dynamic size")
    return behind


def _with_batch(c: Context, x: Expr, rank: int) -> tuple[Expr, bool]:
    lone = c.rank(x) == rank + 1
    return (c.reshape(x, [1, *c.shape(x)]) if lone else x), lone


def _max_pool(c: Context, x: Expr, rank: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
              out: list[Any]) -> Expr:  # fmt: skip
    kernel, strides, pads, dilations = _windows(c, kernel_size, stride, padding, dilation, rank)
    x, lone = _with_batch(c, x, rank)
    behind = _behind(c, x, kernel, strides, pads, dilations, out[-rank:], ceil_mode)
    y = c.emit(_MAX[rank](x, kernel, strides, [*pads, *behind], dilations))
    return c.reshape(y, c.shape(y)[1:]) if lone else y


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
    y = _max_pool(c, x, _rank_of(c), kernel_size, stride, padding, dilation, ceil_mode, c.out_shape(0))
    return [y, None]


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
    x, lone = _with_batch(c, x, rank)
    behind = _behind(c, x, kernel, strides, pads, dilations, c.out_shape()[-rank:], ceil_mode)
    counted = count_include_pad or divisor_override is not None
    if counted and (behind != pads or (divisor_override is not None and any(pads))):
        # What ceil mode adds does not count, given padding does: write the given padding out, and count no other.
        widths = [0, 0, 0, 0] + [w for p in pads for w in (p, p)]
        if divisor_override is not None:
            widths = [0, 0, 0, 0] + [w for p, b in zip(pads, behind) for w in (p, b)]
            behind = pads
        x = c.emit(OP.nn.pad(x, widths, "constant", 0.0))
        behind, pads, counted = [b - p for b, p in zip(behind, pads)], [0] * rank, False
    y = c.emit(_AVG[rank](x, kernel, strides, [*pads, *behind], dilations, False, counted))
    if divisor_override is not None:
        count = 1
        for extent in kernel:
            count *= extent
        y = c.emit(OP.multiply(y, c.const(count / divisor_override, c.dtype(y))))
    return c.reshape(y, c.shape(y)[1:]) if lone else y


@converts("aten.adaptive_avg_pool1d.default", "aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default",
          "aten.adaptive_avg_pool3d.default", "aten._adaptive_avg_pool3d.default")  # fmt: skip
def adaptive_avg_pool(c: Context, x: Expr, output_size: Any) -> Expr:
    return _adaptive(c, x, _rank_of(c), c.out_shape(), OP.mean, _AVG)


@converts("aten.adaptive_max_pool1d.default", "aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool3d.default")
def adaptive_max_pool(c: Context, x: Expr, output_size: Any) -> list[Any]:
    return [_adaptive(c, x, _rank_of(c), c.out_shape(0), OP.max, _MAX), None]


def _adaptive(c: Context, x: Expr, rank: int, out: list[Any], whole: Any, pools: Any) -> Expr:
    """Whole-image windows are a reduction, equal ones a pooling; else each axis is cut into torch's windows."""
    goal = out[-rank:]
    first = c.rank(x) - rank
    if all(isinstance(size, int) and size == 1 for size in goal):
        return c.emit(whole(x, list(range(first, c.rank(x))), True))
    sizes = c.static_shape_of(x, range(first, c.rank(x)))
    if not all(isinstance(size, int) for size in goal):
        raise NotConvertible("a dynamic output size")
    if all(size % g == 0 for size, g in zip(sizes, goal)):
        kernel = [size // g for size, g in zip(sizes, goal)]
        batched, lone = _with_batch(c, x, rank)
        y = c.emit(pools[rank](batched, kernel, kernel, [0] * (2 * rank)))
        return c.reshape(y, c.shape(y)[1:]) if lone else y
    for axis, size, count in zip(range(first, c.rank(x)), sizes, goal):
        windows = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        parts = [c.emit(whole(c.slice(x, axis, low, high - low), [axis], True)) for low, high in windows]
        x = c.emit(OP.concat(parts, axis=axis)) if len(parts) > 1 else parts[0]
    return x
