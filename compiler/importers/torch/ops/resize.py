"""Upsampling. Sizes that torch derives from a scale use that scale for the coordinates, as torch does."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from ..._grid_sample import grid_sample
from ..._run_checks import readable
from .._context import Context, Expr, as_expr
from .._dtypes import is_float
from .._registry import NotConvertible, converts

OP = relax.op


@converts("aten.upsample_nearest1d.vec", "aten.upsample_nearest2d.vec", "aten.upsample_nearest3d.vec")
def nearest(c: Context, input: Expr, output_size: Any, scale_factors: Any) -> Expr:
    return _resized(c, input, "nearest", False, scale_factors)


@converts(
    "aten._upsample_nearest_exact1d.vec", "aten._upsample_nearest_exact2d.vec", "aten._upsample_nearest_exact3d.vec"
)
def nearest_exact(c: Context, input: Expr, output_size: Any, scale_factors: Any) -> Expr:
    return _resized(c, input, "nearest-exact", False, scale_factors)


@converts("aten.upsample_linear1d.vec", "aten.upsample_bilinear2d.vec", "aten.upsample_trilinear3d.vec")
def linear(c: Context, input: Expr, output_size: Any, align_corners: bool, scale_factors: Any) -> Expr:
    return _resized(c, input, "linear", align_corners, scale_factors)


@converts("aten.upsample_bicubic2d.vec")
def bicubic(c: Context, input: Expr, output_size: Any, align_corners: bool, scale_factors: Any) -> Expr:
    return _resized(c, input, "cubic", align_corners, scale_factors)


@converts("aten.upsample_nearest1d.default", "aten.upsample_nearest2d.default", "aten.upsample_nearest3d.default")
def nearest_size(c: Context, x: Expr, output_size: Any, scales: Any = None, scales_d: Any = None, scales_h: Any = None,
                 scales_w: Any = None) -> Expr:  # fmt: skip
    return _resized(c, x, "nearest", False, _scales(scales, scales_d, scales_h, scales_w))


@converts("aten.upsample_linear1d.default", "aten.upsample_bilinear2d.default", "aten.upsample_trilinear3d.default")
def linear_size(c: Context, x: Expr, output_size: Any, align_corners: bool, scales: Any = None, scales_d: Any = None,
                scales_h: Any = None, scales_w: Any = None) -> Expr:  # fmt: skip
    return _resized(c, x, "linear", align_corners, _scales(scales, scales_d, scales_h, scales_w))


@converts("aten.upsample_bicubic2d.default")
def bicubic_size(
    c: Context, x: Expr, output_size: Any, align_corners: bool, scales_h: Any = None, scales_w: Any = None
) -> Expr:
    return _resized(c, x, "cubic", align_corners, _scales(None, None, scales_h, scales_w))


def _scales(*given: Any) -> Any:
    known = [scale for scale in given if scale is not None]
    return known or None


def _resized(c: Context, x: Expr, method: str, align: bool, scales: Any) -> Expr:
    """x [N, C, ...] with its spatial axes resized to torch's result."""
    if method in ("linear", "cubic") and not is_float(c.dtype(x)):
        raise NotConvertible(
            f"interpolation of {c.dtype(x)}, which torch does in fixed point: resize float32 and round"
        )
    rank = c.rank(x) - 2
    sizes, goal = c.shape(x)[2:], c.out_shape()[2:]
    if scales:  # torch's own meaning of the result may be that of the example inputs alone
        for size, goal_size, scale in zip(sizes, goal, scales):
            if not isinstance(size, int):
                c.not_taken_for_one(f"{readable(size)} * {scale}", goal_size)
    static = all(isinstance(size, int) for size in [*sizes, *goal])
    plain = scales is None or all(_is_ratio(s, n, m) for s, n, m in zip(scales, sizes, goal))
    if static and plain and sizes == goal and method == "linear":
        return x  # torch multiplies nothing by 0 then, so that infinities stay where they are
    if rank == 2 and plain and c.dtype(x) == "float32":
        return _resized_2d(c, x, goal, method, align)
    if scales and not all(isinstance(scale, float) for scale in scales):
        raise NotConvertible("a resize by a scale that only a run knows")
    dtype = c.dtype(x)
    x = c.cast(x, "float32") if dtype in ("float16", "bfloat16") else x
    for axis, (size, out) in enumerate(zip(sizes, goal), 2):
        scale = scales[axis - 2] if scales else None
        if isinstance(size, int) and isinstance(out, int):
            x = _axis(c, x, axis, _coordinates(size, out, method, align, scale), size, method)
        else:
            x = _open_axis(c, x, axis, size, out, method, align, scale)
    return c.cast(x, dtype)


def _is_ratio(scale: Any, size: Any, out: Any) -> bool:
    """Whether out / size is exactly the scale: then both give the same coordinates."""
    if not isinstance(scale, float):
        return False
    if isinstance(size, int) and isinstance(out, int):
        return out == size * scale
    return scale == int(scale)


def _resized_2d(c: Context, x: Expr, goal: list[Any], method: str, align: bool) -> Expr:
    size = relax.ShapeExpr([as_expr(extent) for extent in goal])
    if method == "nearest":
        return c.emit(OP.image.resize2d(x, size, layout="NCHW", method="nearest_neighbor",
                                        coordinate_transformation_mode="asymmetric", rounding_method="floor"))  # fmt: skip
    if method == "nearest-exact":
        # floor((i + 0.5) * scale) = floor(half_pixel + 0.5)
        return c.emit(OP.image.resize2d(x, size, layout="NCHW", method="nearest_neighbor",
                                        coordinate_transformation_mode="half_pixel", rounding_method="round_prefer_ceil"))  # fmt: skip
    mode = "align_corners" if align else "half_pixel"
    return c.emit(OP.image.resize2d(x, size, layout="NCHW", method=method, coordinate_transformation_mode=mode,
                                    rounding_method="", cubic_alpha=-0.75))  # fmt: skip


def _coordinates(size: int, out: int, method: str, align: bool, scale: Any) -> Any:
    """Where each output position lies in the input, [out]; float32 like torch's."""
    positions = np.arange(out, dtype=np.float32)
    if align and method != "nearest":
        return positions * np.float32((size - 1) / (out - 1) if out > 1 else 0.0)
    ratio = np.float32(1.0 / scale if scale else size / out)
    if method == "nearest":
        return positions * ratio
    return (positions + np.float32(0.5)) * ratio - np.float32(0.0 if method == "nearest-exact" else 0.5)


def _axis(c: Context, x: Expr, axis: int, where: Any, size: int, method: str) -> Expr:
    """One axis interpolated: a weighted sum of rows taken at fixed positions."""
    floor = np.floor(where)
    if method.startswith("nearest"):
        return _rows(c, x, axis, floor, size)
    if method == "linear":
        where = np.maximum(where, 0)
        floor = np.floor(where)
        part = where - floor
        taps = [(floor, 1 - part), (floor + 1, part)]
    else:
        part = where - floor
        taps = [(floor + i, weight) for i, weight in zip((-1, 0, 1, 2), _cubic(part))]
    total = None
    for rows, weights in taps:
        shaped = c.const(weights.reshape([-1, *[1] * (c.rank(x) - axis - 1)]), c.dtype(x))
        term = c.emit(OP.multiply(_rows(c, x, axis, rows, size), shaped))
        total = term if total is None else c.emit(OP.add(total, term))
    return total


def _open_axis(c: Context, x: Expr, axis: int, size: Any, out: Any, method: str, align: bool, scale: Any) -> Expr:
    """The same where only a run knows the extents."""
    dtype, shape = c.dtype(x), [*c.shape(x)]
    shape[axis] = out

    def build(t: Any, dims: Any, extents: Any) -> Any:
        def real(value: Any) -> Any:
            return tirx.FloatImm("float32", value) if isinstance(value, float) else tirx.Cast("float32", value)

        size, out = extents
        if align and not method.startswith("nearest"):
            ratio = tirx.Select(out > 1, real(size - 1) / real(tirx.max(out - 1, 1)), real(0.0))
        else:
            ratio = real(1.0 / scale) if scale else real(size) / real(out)

        def element(*i: Any) -> Any:
            where = real(i[axis]) * ratio if align or method == "nearest" else (real(i[axis]) + real(0.5)) * ratio
            if not method.startswith("nearest") and not align:
                where = where - real(0.5)
            where = tirx.max(where, real(0.0)) if method == "linear" else where
            first = tirx.floor(where)
            part = where - first

            def tap(offset: int) -> Any:
                row = tirx.Cast("int64", first) + offset
                row = tirx.max(tirx.min(row, size - 1), tirx.IntImm("int64", 0))
                return t(*[row if a == axis else k for a, k in enumerate(i)])

            if method.startswith("nearest"):
                return tap(0)
            weights = {0: real(1.0) - part, 1: part}
            if method == "cubic":
                weights = dict(zip((-1, 0, 1, 2), _cubic(part)))
            total: Any = None
            for offset, weight in weights.items():
                term = tap(offset) * tirx.Cast(dtype, weight)
                total = term if total is None else total + term
            return total

        return te.compute(dims, element, name="resize")

    return c.emit_te(build, x, shape, [size, out])


def _rows(c: Context, x: Expr, axis: int, rows: Any, size: int) -> Expr:
    return c.take(x, c.const(np.clip(rows, 0, size - 1), "int64"), axis)


def _cubic(t: Any, a: float = -0.75) -> list[Any]:
    """Keys' cubic convolution weights of the four neighbours (Keys 1981)."""

    def near(d: Any) -> Any:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Any) -> Any:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


# Antialiased: where an axis shrinks, the filter is stretched over all that falls into one output element.


@converts("aten._upsample_bilinear2d_aa.default", "aten._upsample_bicubic2d_aa.default", "aten._upsample_bilinear2d_aa.vec",
          "aten._upsample_bicubic2d_aa.vec")  # fmt: skip
def antialiased(c: Context, align_corners: bool, x: Any = None, input: Any = None, output_size: Any = None, scales_h: Any = None,
                scales_w: Any = None, scale_factors: Any = None) -> Expr:  # fmt: skip
    """One product with a matrix of weights for each axis."""
    value = x if x is not None else input
    dtype, cubic = c.dtype(value), "bicubic" in str(c.node.target if c.node is not None else "")
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise NotConvertible(f"antialiasing of {dtype}")
    sizes, goal = c.shape(value)[2:], c.out_shape()[2:]
    if not all(isinstance(size, int) for size in (*sizes, *goal)):
        raise NotConvertible("antialiasing with a dynamic size: fix it, or resize without antialias")
    found = c.cast(value, "float32") if dtype in ("float16", "bfloat16") else value
    for axis, scale in zip((3, 2), [*reversed(scale_factors or [scales_h, scales_w])]):
        weights = _weights(sizes[axis - 2], goal[axis - 2], cubic, align_corners, scale)
        table = c.const(weights.T if axis == 3 else weights, c.dtype(found))
        found = c.emit(OP.matmul(found, table) if axis == 3 else OP.matmul(table, found))
    return c.cast(found, dtype)


def _weights(size: int, out: int, cubic: bool, align: bool, scale: Any) -> Any:
    """[out, size]: what each input element counts in each output element."""
    ratio = size / out if scale is None else 1.0 / scale
    if align:
        ratio = (size - 1) / (out - 1) if out > 1 else 0.0
    wide = max(ratio, 1.0)
    support = (2.0 if cubic else 1.0) * wide
    table = np.zeros((out, size))
    for i in range(out):
        center = ratio * (i + 0.5)
        begin, end = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), size)
        t = np.abs((np.arange(begin, end) - center + 0.5) / wide)
        if cubic:
            a = -0.5
            near, far = ((a + 2) * t - (a + 3)) * t * t + 1, ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
            weights = np.where(t < 1, near, np.where(t < 2, far, 0.0))
        else:
            weights = np.maximum(1 - t, 0.0)
        table[i, begin:end] = weights / weights.sum() if weights.sum() else 0.0
    return table


# At places that are data.


@converts("aten.grid_sampler_2d.default", "aten.grid_sampler_3d.default")
def grid_sampler(c: Context, input: Expr, grid: Expr, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Expr:  # fmt: skip
    """input [N, C, (D,) H, W], grid [N, (D',) H', W', 2 or 3] of x, y(, z)"""
    mode = ("linear", "nearest", "cubic")[interpolation_mode]
    if mode == "cubic" and c.rank(input) != 4:
        raise NotConvertible("cubic in other than two dimensions")
    padding = ("zeros", "border", "reflection")[padding_mode]

    def emit(function: Any, *args: Any, name: str) -> Any:
        return c.bb.emit_te(function, *args, primfunc_name_hint=name)

    return grid_sample(emit, input, grid, mode, padding, align_corners)
