"""Resampling: Resize, Upsample, GridSample, and what crops to a size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax, te, tirx

from .._dims import Dim
from .._node import constant, dims_of, dtype_of, shape_expr, Node
from .._registry import op
from .._values import is_float
from ._te import imm

Array = npt.NDArray[Any]


@op("Upsample", since=[7, 9, 10])
def upsample(n: Node) -> Any:
    scales = n.attr("scales") if n.version < 9 else [float(v) for v in n.const(1, "scales").reshape(-1)]
    mode = n.str_attr("mode", "nearest")
    extents: list[Dim] = []
    for d, s in zip(n.shape(0), scales, strict=True):
        extents.append(_scaled(n, d, float(s)))
    plan = _Plan(mode=mode, coordinates="asymmetric", nearest="floor", cubic_a=-0.75)
    return _resize(n, n.x(0), list(range(n.rank(0))), extents, [float(s) for s in scales], plan)


class _Plan:
    """How to interpolate; the same for all axes."""

    def __init__(
        self,
        mode: str,
        coordinates: str,
        nearest: str,
        cubic_a: float,
        *,
        exclude_outside: bool = False,
        antialias: bool = False,
        extrapolation: float = 0.0,
    ) -> None:
        self.mode = mode
        self.coordinates = coordinates
        self.nearest = nearest
        self.cubic_a = cubic_a
        self.exclude_outside = exclude_outside
        self.antialias = antialias
        self.extrapolation = extrapolation


@op("Resize", since=[10, 11, 13, 18, 19])
def resize(n: Node) -> Any:
    rank = n.rank(0)
    if n.version == 10:
        plan = _Plan(n.str_attr("mode", "nearest"), "asymmetric", "floor", -0.75)
        scales_at, sizes_at, roi_at = 1, 99, 99
    else:
        plan = _Plan(
            n.str_attr("mode", "nearest"),
            n.str_attr("coordinate_transformation_mode", "half_pixel"),
            n.str_attr("nearest_mode", "round_prefer_floor"),
            n.float_attr("cubic_coeff_a", -0.75),
            exclude_outside=n.flag("exclude_outside"),
            antialias=n.flag("antialias"),
            extrapolation=n.float_attr("extrapolation_value", 0.0),
        )
        roi_at, scales_at, sizes_at = 1, 2, 3
    axes = n.axes(n.ints_attr("axes", list(range(rank))), rank)
    have = [n.shape(0)[a] for a in axes]
    use_scales = n.has(scales_at) and not (n.value(scales_at).shape == (0,))
    if use_scales:
        scales = [float(v) for v in n.const(scales_at, "scales").reshape(-1)]
        if len(scales) != len(axes):
            raise n.broken(f"has {len(scales)} scales for {len(axes)} axes")
        if plan.coordinates != "tf_crop_and_resize":
            extents = [_scaled(n, d, s) for d, s in zip(have, scales, strict=True)]
        else:
            roi = [float(v) for v in n.const(roi_at, "roi").reshape(-1)]
            k = len(axes)
            if not all(isinstance(d, int) for d in have):
                raise n.refuse("with a region of interest on a dynamic extent")
            extents = [math.floor(d * (roi[k + i] - roi[i]) * s) for i, (d, s) in enumerate(zip(have, scales, strict=True))]
    elif n.has(sizes_at):
        extents = n.dims(sizes_at, "sizes")
        if len(extents) != len(axes):
            raise n.broken(f"has {len(extents)} sizes for {len(axes)} axes")
        scales, extents = _policy(n, have, extents)
    else:
        raise n.broken("has neither scales nor sizes")
    roi_values = None
    if plan.coordinates == "tf_crop_and_resize":
        roi_values = [float(v) for v in n.const(roi_at, "roi").reshape(-1)]
    return _resize(n, n.x(0), axes, extents, scales, plan, roi_values)


def _scaled(n: Node, d: Dim, scale: float) -> Dim:
    """floor(d * scale), exactly, also for symbols where the scale is a simple fraction."""
    if isinstance(d, int):
        return math.floor(d * float(np.float32(scale)))
    if scale == int(scale):
        return n.math.mul(d, int(scale))
    from fractions import Fraction

    f = Fraction(scale).limit_denominator(64)
    if float(f) != scale:
        raise n.refuse(f"by {scale} on a dynamic extent")
    return n.math.floordiv(n.math.mul(d, f.numerator), f.denominator)


def _policy(n: Node, have: list[Dim], sizes: list[Dim]) -> tuple[list[Any], list[Dim]]:
    """(scales, extents) of the sizes, under keep_aspect_ratio_policy. A scale of None means: from the extents."""
    policy = n.str_attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        scales: list[Any] = [s / d if isinstance(s, int) and isinstance(d, int) and d else None for s, d in zip(sizes, have, strict=True)]
        return scales, sizes
    if not all(isinstance(v, int) for v in (*sizes, *have)):
        raise n.refuse(f"with policy '{policy}' on a dynamic extent")
    ratios = [s / d for s, d in zip(sizes, have, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [scale] * len(have), [int(math.floor(scale * d + 0.5)) for d in have]


def _resize(
    n: Node, x: Any, axes: list[int], extents: list[Dim], scales: list[Any], plan: _Plan, roi: list[float] | None = None
) -> Any:
    dims = list(dims_of(x))
    out = list(dims)
    for a, e in zip(axes, extents, strict=True):
        out[a] = e
    moving = [
        i for i, a in enumerate(axes)
        if not (n.math.same(dims[a], extents[i]) and (scales[i] is None or scales[i] == 1.0) and plan.coordinates != "tf_crop_and_resize")
    ]  # fmt: skip
    if not moving:
        return x
    if _kernel_like(n, x, [axes[i] for i in moving], [scales[i] for i in moving], dims, out, plan):
        modes = {"linear": "linear", "nearest": "nearest_neighbor", "cubic": "cubic"}
        rounding = {"floor": "floor", "ceil": "ceil", "round_prefer_floor": "round_prefer_floor", "round_prefer_ceil": "round_prefer_ceil"}
        return n.emit(
            relax.op.image.resize2d(
                x, shape_expr(out[2:]), layout="NCHW", method=modes[plan.mode], coordinate_transformation_mode=plan.coordinates,
                rounding_method=rounding[plan.nearest] if plan.mode == "nearest" else "", cubic_alpha=plan.cubic_a,
            )
        )  # fmt: skip
    dtype = dtype_of(x)
    y = n.cast(x, "float32") if dtype in ("float16", "bfloat16") else x
    for i in moving:
        a = axes[i]
        region = (roi[i], roi[i + len(axes)]) if roi is not None else (0.0, 1.0)
        y = _resample_axis(n, y, a, dims[a], extents[i], scales[i], plan, region)
    return n.cast(y, dtype) if dtype_of(y) != dtype else y


def _kernel_like(n: Node, x: Any, axes: list[int], scales: list[Any], dims: list[Dim], out: list[Dim], plan: _Plan) -> bool:
    """Whether Relax's resize2d (and the kernel behind it) says the same: it takes its scales from the extents."""
    if len(dims) != 4 or dtype_of(x) != "float32" or any(a < 2 for a in axes) or plan.antialias or plan.exclude_outside:
        return False
    if plan.mode != "linear" or plan.coordinates not in ("half_pixel", "align_corners", "asymmetric"):
        return False
    for a, s in zip(axes, scales, strict=True):
        if s is None:
            continue
        if isinstance(dims[a], int) and isinstance(out[a], int):
            if out[a] != s * dims[a]:
                return False
        elif s != int(s):
            return False
    return True


def _resample_axis(
    n: Node, x: Any, axis: int, have: Dim, want: Dim, scale: Any, plan: _Plan, region: tuple[float, float]
) -> Any:
    """Interpolate along one axis: out[o] = sum over k of weight[o, k] * x[index[o, k]]."""
    if not isinstance(have, int) or not isinstance(want, int):
        return _resample_dynamic(n, x, axis, want, scale, plan)
    index, weight, outside = axis_table(have, want, scale, plan, region)
    dtype = dtype_of(x)
    out = list(dims_of(x))
    out[axis] = want
    taps = index.shape[1]
    where = constant(index.astype(np.int32))
    if plan.mode == "nearest":

        def pick(t: Any, at: Any, dims: Any) -> Any:
            return te.compute(dims, lambda *i: t(*i[:axis], tirx.Cast("int64", at(i[axis], 0)), *i[axis + 1 :]), name="resize_nearest")

        y = n.te(pick, x, where, shape_expr(out), name="resize_nearest")
        return _extrapolate(n, y, axis, outside, plan)
    if not is_float(dtype):
        raise n.refuse(f"mode '{plan.mode}' on {dtype}")
    wide = "float64" if dtype == "float64" else "float32"
    factors = constant(weight.astype(wide))

    def blend(t: Any, at: Any, w: Any, dims: Any) -> Any:
        def element(*i: Any) -> Any:
            total: Any = None
            for k in range(taps):
                v = t(*i[:axis], tirx.Cast("int64", at(i[axis], k)), *i[axis + 1 :]) * w(i[axis], k)
                total = v if total is None else total + v
            return total

        def long(*i: Any) -> Any:
            k = te.reduce_axis((0, taps), name="k")
            return te.sum(t(*i[:axis], tirx.Cast("int64", at(i[axis], k)), *i[axis + 1 :]) * w(i[axis], k), axis=k)

        return te.compute(dims, element if taps <= 8 else long, name="resize")

    y = n.te(blend, x, where, factors, shape_expr(out), name="resize")
    return _extrapolate(n, y, axis, outside, plan)


def _extrapolate(n: Node, y: Any, axis: int, outside: Array, plan: _Plan) -> Any:
    if not outside.any():
        return y
    mask = constant(outside)
    dtype = dtype_of(y)

    def body(t: Any, m: Any) -> Any:
        return te.compute(t.shape, lambda *i: tirx.Select(m(i[axis]), imm(plan.extrapolation, dtype), t(*i)), name="extrapolate")

    return n.te(body, y, mask)


def source_coordinates(have: int, want: int, scale: float, plan: _Plan, region: tuple[float, float]) -> Array:
    """Where each output element lies in the input, as ONNX defines it."""
    o = np.arange(want, dtype=np.float64)
    mode = plan.coordinates
    length = scale * have  # may differ from the integer extent
    if mode == "half_pixel":
        return (o + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        adjustment = want / length
        offset = have / 2 * (1 - adjustment)
        return offset + (o + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (o + 0.5) / scale - 0.5 if length > 1 else np.zeros_like(o)
    if mode == "asymmetric":
        return o / scale
    if mode == "align_corners":
        return o * (have - 1) / (length - 1) if length != 1 else np.zeros_like(o)
    if mode == "tf_half_pixel_for_nn":
        return (o + 0.5) / scale
    if mode == "tf_crop_and_resize":
        start, end = region
        if want == 1 or length == 1:
            return np.full_like(o, (end + start) * (have - 1) / 2)
        return o * (end - start) * (have - 1) / (length - 1) + start * (have - 1)
    raise ValueError(f"unknown coordinate_transformation_mode '{mode}'")


def axis_table(have: int, want: int, scale: Any, plan: _Plan, region: tuple[float, float]) -> tuple[Array, Array, Array]:
    """(index [want, taps], weight [want, taps], outside [want]) of one axis."""
    scale = want / have if scale is None else float(scale)
    x = source_coordinates(have, want, scale, plan, region)
    outside = np.zeros(want, bool)
    if plan.coordinates == "tf_crop_and_resize":
        outside = (x < 0) | (x > have - 1)
    if plan.mode == "nearest":
        return np.clip(_nearest(x, plan.nearest), 0, have - 1).astype(np.int64)[:, None], np.ones((want, 1)), outside
    reach = 1 if plan.mode == "linear" else 2
    stretch = max(1.0, 1.0 / scale) if plan.antialias else 1.0
    if plan.mode not in ("linear", "cubic"):
        raise ValueError(f"unknown mode '{plan.mode}'")
    if plan.antialias and stretch > 1.0:
        return (*_antialias_table(x, have, reach, stretch, plan), outside)
    base = np.floor(x)
    first = base - reach + 1
    taps = 2 * reach
    index = first[:, None] + np.arange(taps)[None, :]
    weight = _filter(x[:, None] - index, plan)
    return (*_border(index, weight, have, plan), outside)


def _antialias_table(x: Array, have: int, reach: int, stretch: float, plan: _Plan) -> tuple[Array, Array]:
    """A downscaling filter is stretched by the inverse scale, and its weights normalised."""
    support = reach * stretch
    first = np.floor(x - support) + 1
    taps = int(math.ceil(2 * support)) + 1
    index = first[:, None] + np.arange(taps)[None, :]
    weight = _filter((x[:, None] - index) / stretch, plan)
    weight = weight / weight.sum(axis=1, keepdims=True)
    return _border(index, weight, have, plan)


def _border(index: Array, weight: Array, have: int, plan: _Plan) -> tuple[Array, Array]:
    if plan.exclude_outside:
        inside = (index >= 0) & (index < have)
        weight = np.where(inside, weight, 0.0)
        weight = weight / weight.sum(axis=1, keepdims=True)
    return np.clip(index, 0, have - 1).astype(np.int64), weight


def _filter(d: Array, plan: _Plan) -> Array:
    d = np.abs(d)
    if plan.mode == "linear":
        return np.maximum(0.0, 1.0 - d)
    a = plan.cubic_a
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _nearest(x: Array, mode: str) -> Array:
    if mode == "floor":
        return np.floor(x)
    if mode == "ceil":
        return np.ceil(x)
    if mode == "round_prefer_floor":
        return np.ceil(x - 0.5)
    if mode == "round_prefer_ceil":
        return np.floor(x + 0.5)
    raise ValueError(f"unknown nearest_mode '{mode}'")


def _resample_dynamic(n: Node, x: Any, axis: int, want: Dim, scale: Any, plan: _Plan) -> Any:
    """The same where an extent is only known at run time: coordinates are computed in float32 there."""
    if plan.antialias or plan.exclude_outside or plan.coordinates in ("tf_crop_and_resize", "half_pixel_symmetric"):
        raise n.refuse(f"'{plan.coordinates}', antialias or exclude_outside on a dynamic extent")
    dtype = dtype_of(x)
    if plan.mode != "nearest" and not is_float(dtype):
        raise n.refuse(f"mode '{plan.mode}' on {dtype}")
    out = list(dims_of(x))
    out[axis] = want
    f = "float32"

    def body(t: Any, dims: Any) -> Any:
        have, length = t.shape[axis], dims[axis]

        def source(o: Any) -> Any:
            p = tirx.Cast(f, o)
            if plan.coordinates == "align_corners":
                ratio = tirx.Cast(f, have - 1) / tirx.Cast(f, tirx.max(length - 1, imm(1, "int64")))
                return p * ratio
            ratio = tirx.Cast(f, have) / tirx.Cast(f, length) if scale is None else imm(1.0 / scale, f)
            half = imm(0.5, f)
            if plan.coordinates == "asymmetric":
                return p * ratio
            if plan.coordinates == "tf_half_pixel_for_nn":
                return (p + half) * ratio
            at = (p + half) * ratio - half
            return at if plan.coordinates == "half_pixel" else tirx.Select(length > 1, at, imm(0, f))

        def inside(k: Any) -> Any:
            return tirx.max(tirx.min(tirx.Cast("int64", k), have - 1), imm(0, "int64"))

        def element(*i: Any) -> Any:
            s = source(i[axis])

            def read(k: Any) -> Any:
                return t(*i[:axis], inside(k), *i[axis + 1 :])

            half = imm(0.5, f)
            if plan.mode == "nearest":
                rounded = {
                    "floor": lambda: tirx.floor(s),
                    "ceil": lambda: tirx.ceil(s),
                    "round_prefer_floor": lambda: tirx.ceil(s - half),
                    "round_prefer_ceil": lambda: tirx.floor(s + half),
                }[plan.nearest]()
                return read(rounded)
            base = tirx.floor(s)
            d = s - base
            if plan.mode == "linear":
                return read(base) * tirx.Cast(dtype, imm(1, f) - d) + read(base + imm(1, f)) * tirx.Cast(dtype, d)
            total: Any = None
            for k, w in zip((-1, 0, 1, 2), _cubic_weights(d, plan.cubic_a), strict=True):
                v = read(base + imm(k, f)) * tirx.Cast(dtype, w)
                total = v if total is None else total + v
            return total

        return te.compute(dims, element, name="resize")

    return n.te(body, x, shape_expr(out), name="resize")


def _cubic_weights(d: Any, a: float) -> list[Any]:
    """Weights of the four neighbours at -1, 0, 1, 2 for the fraction d."""
    f = "float32"
    k = lambda v: imm(v, f)  # noqa: E731

    def near(t: Any) -> Any:
        return (k(a + 2) * t - k(a + 3)) * t * t + k(1)

    def far(t: Any) -> Any:
        return ((k(a) * t - k(5 * a)) * t + k(8 * a)) * t - k(4 * a)

    return [far(d + k(1)), near(d), near(k(1) - d), far(k(2) - d)]


@op("GridSample", since=[16, 20, 22])
def grid_sample(n: Node) -> Any:
    """Samples x [N, C, D1..Dk] at grid [N, E1..Ek, k]; the grid's last axis counts from the innermost dimension."""
    n.float_only()
    mode = n.str_attr("mode", "bilinear" if n.version == 16 else "linear")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    padding = n.str_attr("padding_mode", "zeros")
    align = n.flag("align_corners")
    x, grid = n.x(0), n.x(1)
    dims, where = dims_of(x), dims_of(grid)
    k = len(dims) - 2
    if len(where) != k + 2 or where[-1] != k:
        raise n.broken(f"has a grid of shape {list(where)} for data of rank {len(dims)}")
    dtype = dtype_of(x)
    f = "float64" if dtype == "float64" else "float32"
    if mode == "cubic" and k != 2:
        raise n.refuse("cubic in other than two dimensions")

    def body(t: Any, g: Any, out: Any) -> Any:
        def element(b: Any, c: Any, *at: Any) -> Any:
            extents = [t.shape[2 + a] for a in range(k)]
            place = [_grid_place(tirx.Cast(f, g(b, *at, k - 1 - a)), extents[a], align, f) for a in range(k)]
            if mode != "cubic":
                place = [_grid_border(p, e, padding, align, f) for p, e in zip(place, extents, strict=True)]

            def read(index: list[Any]) -> Any:
                if mode == "cubic" and padding != "zeros":
                    index = [_grid_border(p, e, padding, align, f) for p, e in zip(index, extents, strict=True)]
                far = imm(1e9, f)
                whole = [tirx.Cast("int64", tirx.max(tirx.min(p, far), -far)) for p in index]
                inside = tirx.all(*[q for w, e in zip(whole, extents, strict=True) for q in (w >= 0, w < e)])
                safe = [tirx.max(tirx.min(w, e - 1), imm(0, "int64")) for w, e in zip(whole, extents, strict=True)]
                return tirx.Select(inside, tirx.Cast(f, t(b, c, *safe)), imm(0, f))

            if mode == "nearest":
                return tirx.Cast(dtype, read([tirx.nearbyint(p) for p in place]))
            base = [tirx.floor(p) for p in place]
            part = [p - q for p, q in zip(place, base, strict=True)]
            if mode == "linear":
                return tirx.Cast(dtype, _corners(read, base, part, f))
            rows = []
            for dy in (-1, 0, 1, 2):
                row: Any = None
                for dx, w in zip((-1, 0, 1, 2), _cubic_f(part[1], f), strict=True):
                    v = read([base[0] + imm(dy, f), base[1] + imm(dx, f)]) * w
                    row = v if row is None else row + v
                rows.append(row)
            total: Any = None
            for v, w in zip(rows, _cubic_f(part[0], f), strict=True):
                total = v * w if total is None else total + v * w
            return tirx.Cast(dtype, total)

        return te.compute(out, element, name="grid_sample")

    return n.te(body, x, grid, shape_expr([dims[0], dims[1], *where[1:-1]]))


def _corners(read: Any, base: list[Any], part: list[Any], f: str) -> Any:
    total: Any = None
    for corner in range(1 << len(base)):
        index, weight = [], imm(1, f)
        for a, (b, p) in enumerate(zip(base, part, strict=True)):
            up = corner >> a & 1
            index.append(b + imm(1, f) if up else b)
            weight = weight * (p if up else imm(1, f) - p)
        v = read(index) * weight
        total = v if total is None else total + v
    return total


def _cubic_f(d: Any, f: str) -> list[Any]:
    a = -0.75
    one = imm(1, f)

    def near(t: Any) -> Any:
        return (imm(a + 2, f) * t - imm(a + 3, f)) * t * t + one

    def far(t: Any) -> Any:
        return ((imm(a, f) * t - imm(5 * a, f)) * t + imm(8 * a, f)) * t - imm(4 * a, f)

    return [far(d + one), near(d), near(one - d), far(imm(2, f) - d)]


def _grid_place(v: Any, extent: Any, align: bool, f: str) -> Any:
    """From [-1, 1] to the index of an element."""
    one, two = imm(1, f), imm(2, f)
    size = tirx.Cast(f, extent)
    return (v + one) / two * (size - one) if align else ((v + one) * size - one) / two


def _grid_border(p: Any, extent: Any, padding: str, align: bool, f: str) -> Any:
    if padding == "zeros":
        return p
    size = tirx.Cast(f, extent)
    zero, one, half = imm(0, f), imm(1, f), imm(0.5, f)
    if padding == "border":
        return tirx.max(zero, tirx.min(p, size - one))
    # reflection about the centres of the outer elements, or about their outer edges
    low, high = (zero, size - one) if align else (-half, size - half)
    span = high - low
    safe = tirx.Select(span > zero, span, one)
    d = tirx.abs(p - low)
    turns = tirx.floor(d / safe)
    rest = d - turns * safe
    even = tirx.floor(turns / imm(2, f)) * imm(2, f) == turns
    mirrored = tirx.Select(even, rest + low, high - rest)
    return tirx.max(zero, tirx.min(tirx.Select(span > zero, mirrored, zero), size - one))
