"""Resampling: Resize, Upsample, GridSample, and what crops to a size."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax, te, tirx

from ..._grid_sample import TAPS
from ..._grid_sample import grid_sample as grid_sample_at
from ..._scaled import MAX_EXTENT, ratio_of
from .._dims import Dim
from .._exprs import constant, dims_of, dtype_of, shape_expr
from .._node import Node
from .._registry import op
from .._values import is_float
from ._runtime import bind_vector
from ._te import imm

Array = npt.NDArray[Any]

# The words of each attribute, the default first.
_MODES = ("nearest", "linear", "cubic")
_COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn",
                "tf_crop_and_resize")  # fmt: skip
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
_POLICIES = ("stretch", "not_larger", "not_smaller")


@op("Upsample", since=[7, 9, 10])
def upsample(n: Node) -> Any:
    mode = n.choice("mode", "nearest", "linear")
    if n.version >= 9 and n.value(1).const is None:
        plan = _Plan(mode=mode, coordinates="asymmetric", nearest="floor", cubic_a=-0.75)
        return _runtime_resize(n, list(range(n.rank(0))), list(n.shape(0)), True, [1], plan)
    scales = n.attr("scales") if n.version < 9 else [float(v) for v in n.const(1, "scales").reshape(-1)]
    if len(scales) != n.rank(0):
        raise n.broken(f"has {len(scales)} scales for {n.rank(0)} axes")
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
        plan = _Plan(n.choice("mode", "nearest", "linear"), "asymmetric", "by_scale", -0.75)
        scales_at, sizes_at, roi_at = 1, 99, 99
    else:
        plan = _Plan(
            n.choice("mode", *_MODES),
            n.choice("coordinate_transformation_mode", *_COORDINATES),
            n.choice("nearest_mode", *_NEAREST),
            n.float_attr("cubic_coeff_a", -0.75),
            exclude_outside=n.flag("exclude_outside"),
            antialias=n.flag("antialias"),
            extrapolation=n.float_attr("extrapolation_value", 0.0),
        )
        roi_at, scales_at, sizes_at = 1, 2, 3
    axes = n.axes(n.ints_attr("axes", list(range(rank))), rank)
    have = [n.shape(0)[a] for a in axes]
    if any(isinstance(d, int) and d < 1 for d in have):
        raise n.refuse("of an axis without elements")
    crop = plan.coordinates == "tf_crop_and_resize"
    use_scales = n.has(scales_at) and n.value(scales_at).shape != (0,)
    if not use_scales and not n.has(sizes_at):
        raise n.broken("has neither scales nor sizes")
    if use_scales and n.has(sizes_at) and n.value(sizes_at).shape != (0,):
        raise n.broken("has both scales and sizes")
    given = [scales_at if use_scales else sizes_at, *([roi_at] if crop else [])]
    if n.shape(given[0]) != (len(axes),):
        raise n.broken(f"has scales or sizes of shape {list(n.shape(given[0]))} for {len(axes)} axes")
    if not all(n.value(i).known for i in given):
        return _runtime_resize(n, axes, have, use_scales, given, plan)
    region = [float(v) for v in n.const(roi_at, "roi").reshape(-1)] if crop else None
    if region is not None and (len(region) != 2 * len(axes) or not all(map(math.isfinite, region))):
        raise n.broken(f"has the region of interest {region}")
    if use_scales:
        scales = [float(v) for v in n.const(scales_at, "scales").reshape(-1)]
        if any(not 0 < s < math.inf for s in scales):
            raise n.broken(f"has scales {scales}")
        if region is None:
            extents = [_scaled(n, d, s) for d, s in zip(have, scales, strict=True)]
        else:
            k = len(axes)
            if not all(isinstance(d, int) for d in have):
                raise n.refuse("with a region of interest on a dynamic extent")
            extents = [
                math.floor(d * (region[k + i] - region[i]) * s)
                for i, (d, s) in enumerate(zip(have, scales, strict=True))
            ]
    else:
        scales, extents = _policy(n, have, n.dims(sizes_at, "sizes"))
    return _resize(n, n.x(0), axes, extents, scales, plan, region)


def _runtime_resize(n: Node, axes: list[int], have: list[Dim], use_scales: bool, given: list[int], plan: _Plan) -> Any:
    """Scales, sizes or the region come from the run: extents are bound, factors are read from a tensor in float64."""
    k = len(axes)
    f = "float64"
    policy = n.choice("keep_aspect_ratio_policy", *_POLICIES) if not use_scales else "stretch"
    first = n.cast(n.x(given[0]), f)
    region = n.cast(n.x(given[1]), f) if len(given) > 1 else None

    def factors(t: Any, dims: Any) -> list[Any]:
        if use_scales:
            return [t(i) for i in range(k)]
        ratios = [t(i) / tirx.Cast(f, dims[i]) for i in range(k)]
        if policy == "stretch":
            return ratios
        best = ratios[0]
        for r in ratios[1:]:
            best = tirx.min(best, r) if policy == "not_larger" else tirx.max(best, r)
        return [best] * k

    def table(t: Any, dims: Any) -> Any:
        values = factors(t, dims)

        def element(i: Any) -> Any:
            out = values[-1]
            for j in range(k - 2, -1, -1):
                out = tirx.Select(i == j, values[j], out)
            return out

        return te.compute((k,), element, name="scales")

    def extents(t: Any, *rest: Any) -> list[Any]:
        dims = rest[-1]
        values = factors(t, dims)
        out = []
        for i in range(k):
            size = tirx.Cast(f, dims[i])
            if use_scales:
                part = rest[0](k + i) - rest[0](i) if region is not None else imm(1, f)
                out.append(tirx.Cast("int64", tirx.floor(size * part * values[i])))
            elif policy == "stretch":
                out.append(tirx.Cast("int64", t(i)))
            else:
                out.append(tirx.Cast("int64", tirx.floor(values[i] * size + imm(0.5, f))))
        return out

    scales = n.te(table, first, shape_expr(have), name="scales")
    wanted = bind_vector(n, extents, first, *([region] if region is not None else []), dims=have, count=k)
    return _resize(n, n.x(0), axes, wanted, [(scales, i) for i in range(k)], plan, region)


def _scaled(n: Node, d: Dim, scale: float) -> Dim:
    """floor(d * scale), exactly, also for symbols where the scale is a simple fraction."""
    if isinstance(d, int):
        return math.floor(d * float(np.float32(scale)))
    low, high = n.math.span(d)
    plain = Fraction(scale).limit_denominator(64)
    if float(plain) == scale:
        return n.math.floordiv(n.math.mul(d, plain.numerator), plain.denominator)
    ratio = ratio_of(scale, low, min(high, MAX_EXTENT), lambda sizes: _products(sizes, scale))
    if ratio is None:
        raise n.refuse(
            f"by {scale:.6g} on a dynamic extent, where it depends on the rounding how many elements result: give sizes"
        )
    if high > MAX_EXTENT:
        n.assume(
            lambda dims: dims[0] <= imm(MAX_EXTENT, "int64"),
            shape_expr([d]),
            says=f"resizes an extent of at most {MAX_EXTENT}",
        )
    return n.math.floordiv(n.math.mul(d, ratio.numerator), ratio.denominator)


def _products(sizes: npt.NDArray[np.int64], scale: float) -> npt.NDArray[np.int64]:
    """floor(size * scale), or -1 where that in single precision, as ONNX Runtime computes it, is not what the formula says."""
    exact = np.floor(sizes * float(np.float32(scale)))
    single = np.floor(sizes.astype(np.float32) * np.float32(scale))
    return np.where(exact == single, exact, -1).astype(np.int64)


def _policy(n: Node, have: list[Dim], sizes: list[Dim]) -> tuple[list[Any], list[Dim]]:
    """(scales, extents) of the sizes, under keep_aspect_ratio_policy. A scale of None means: from the extents."""
    policy = n.choice("keep_aspect_ratio_policy", *_POLICIES)
    if policy == "stretch":
        scales: list[Any] = [
            s / d if isinstance(s, int) and isinstance(d, int) and d else None for s, d in zip(sizes, have, strict=True)
        ]
        return scales, sizes
    if not all(isinstance(v, int) for v in (*sizes, *have)):
        raise n.refuse(f"with policy '{policy}' on a dynamic extent")
    ratios = [s / d for s, d in zip(sizes, have, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [scale] * len(have), [math.floor(scale * d + 0.5) for d in have]


def _resize(
    n: Node, x: Any, axes: list[int], extents: list[Dim], scales: list[Any], plan: _Plan, roi: Any = None
) -> Any:
    """scales: a number, None (the ratio of the extents), or (tensor, position). roi: numbers, or a tensor of a run."""
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
        rounding = {
            "floor": "floor",
            "ceil": "ceil",
            "round_prefer_floor": "round_prefer_floor",
            "round_prefer_ceil": "round_prefer_ceil",
        }
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
        if isinstance(roi, list):
            region: Any = (roi[i], roi[i + len(axes)])
        else:
            region = (0.0, 1.0) if roi is None else (roi, i, i + len(axes))
        y = _resample_axis(n, y, a, dims[a], extents[i], scales[i], plan, region)
    return n.cast(y, dtype) if dtype_of(y) != dtype else y


def _kernel_like(
    n: Node, x: Any, axes: list[int], scales: list[Any], dims: list[Dim], out: list[Dim], plan: _Plan
) -> bool:
    """Whether Relax's resize2d (and the kernel behind it) says the same: it takes its scales from the extents."""
    if len(dims) != 4 or dtype_of(x) != "float32" or any(a < 2 for a in axes) or plan.antialias or plan.exclude_outside:
        return False
    if plan.mode != "linear" or plan.coordinates not in ("half_pixel", "align_corners", "asymmetric"):
        return False
    for a, s in zip(axes, scales, strict=True):
        if s is None:
            continue
        if isinstance(s, tuple):
            return False
        if isinstance(dims[a], int) and isinstance(out[a], int):
            if out[a] != s * dims[a]:
                return False
        elif s != int(s):
            return False
    return True


def _resample_axis(n: Node, x: Any, axis: int, have: Dim, want: Dim, scale: Any, plan: _Plan, region: Any) -> Any:
    """Interpolate along one axis: out[o] = sum over k of weight[o, k] * x[index[o, k]]."""
    dtype = dtype_of(x)
    if plan.mode != "nearest" and not is_float(dtype):
        raise n.refuse(f"mode '{plan.mode}' on {dtype}")
    wide = "float64" if dtype == "float64" else "float32"
    if (
        isinstance(have, int)
        and isinstance(want, int)
        and not isinstance(scale, tuple)
        and isinstance(region[0], float)
    ):
        index, weight, out_of_range = axis_table(have, want, scale, plan, region)
        where, factors = constant(index.astype(np.int32)), constant(weight.astype(wide))
        outside = constant(out_of_range) if out_of_range.any() else None
        taps: Dim = index.shape[1]
    else:
        where, factors, outside, taps = runtime_table(n, have, want, scale, plan, region, wide)
    out = list(dims_of(x))
    out[axis] = want
    if plan.mode == "nearest":

        def pick(t: Any, at: Any, dims: Any) -> Any:
            return te.compute(
                dims, lambda *i: t(*i[:axis], tirx.Cast("int64", at(i[axis], 0)), *i[axis + 1 :]), name="resize_nearest"
            )

        return _extrapolate(n, n.te(pick, x, where, shape_expr(out), name="resize_nearest"), axis, outside, plan)

    def blend(t: Any, at: Any, w: Any, dims: Any) -> Any:
        def element(*i: Any) -> Any:
            total: Any = None
            for k in range(taps):
                v = t(*i[:axis], tirx.Cast("int64", at(i[axis], k)), *i[axis + 1 :]) * w(i[axis], k)
                total = v if total is None else total + v
            return total

        def long(*i: Any) -> Any:
            k = te.reduce_axis((0, at.shape[1]), name="k")
            return te.sum(t(*i[:axis], tirx.Cast("int64", at(i[axis], k)), *i[axis + 1 :]) * w(i[axis], k), axis=k)

        return te.compute(dims, element if isinstance(taps, int) and taps <= 8 else long, name="resize")

    return _extrapolate(n, n.te(blend, x, where, factors, shape_expr(out), name="resize"), axis, outside, plan)


def _extrapolate(n: Node, y: Any, axis: int, outside: Any, plan: _Plan) -> Any:
    if outside is None:
        return y
    dtype = dtype_of(y)

    def body(t: Any, m: Any) -> Any:
        return te.compute(
            t.shape, lambda *i: tirx.Select(m(i[axis]), imm(plan.extrapolation, dtype), t(*i)), name="extrapolate"
        )

    return n.te(body, y, outside)


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


def axis_table(
    have: int, want: int, scale: Any, plan: _Plan, region: tuple[float, float]
) -> tuple[Array, Array, Array]:
    """(index [want, taps], weight [want, taps], outside [want]) of one axis."""
    scale = want / have if scale is None else float(scale)
    x = source_coordinates(have, want, scale, plan, region)
    outside = np.zeros(want, bool)
    if plan.coordinates == "tf_crop_and_resize":
        outside = (x < 0) | (x > have - 1)
    if plan.mode == "nearest":
        return (
            np.clip(_nearest(x, plan.nearest, scale), 0, have - 1).astype(np.int64)[:, None],
            np.ones((want, 1)),
            outside,
        )
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
    taps = math.ceil(2 * support) + 1
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


def _nearest(x: Array, mode: str, scale: float) -> Array:
    """`by_scale` is what ONNX Runtime does for version 10, which has no nearest_mode."""
    if mode == "by_scale":
        mode = "ceil" if scale < 1 else "floor"
    if mode == "floor":
        return np.floor(x)
    if mode == "ceil":
        return np.ceil(x)
    if mode == "round_prefer_floor":
        return np.ceil(x - 0.5)
    if mode == "round_prefer_ceil":
        return np.floor(x + 0.5)
    raise ValueError(f"unknown nearest_mode '{mode}'")


def runtime_table(
    n: Node, have: Dim, want: Dim, scale: Any, plan: _Plan, region: Any, wide: str
) -> tuple[Any, Any, Any, Dim]:
    """`axis_table` by generated code, where extents, scale or region are only known at run time: (index, weight, outside, taps)."""
    f = "float64"
    tensors: list[Any] = []
    read_scale = isinstance(scale, tuple)
    if read_scale:
        tensors.append(scale[0])
    crop = plan.coordinates == "tf_crop_and_resize"
    read_region = crop and not isinstance(region[0], float)
    if read_region:
        tensors.append(region[0])
    reach = 0 if plan.mode == "nearest" else 1 if plan.mode == "linear" else 2
    if plan.mode not in ("nearest", "linear", "cubic"):
        raise n.broken(f"has the unknown mode '{plan.mode}'")

    def parts(*args: Any) -> tuple[Any, Any, Any, Any, Any]:
        """(scale, region start, region end, extent in, extent out) in float64."""
        *given, dims = args
        h, w = tirx.Cast(f, dims[0]), tirx.Cast(f, dims[1])
        s = given[0](scale[1]) if read_scale else w / h if scale is None else imm(scale, f)
        if read_region:
            start, end = given[-1](region[1]), given[-1](region[2])
        else:
            start, end = (imm(v, f) for v in ((0.0, 1.0) if not crop else region))
        return s, start, end, h, w

    taps: Dim = max(2 * reach, 1)
    if plan.antialias and reach:

        def count(*args: Any) -> list[Any]:
            s = parts(*args)[0]
            return [tirx.Cast("int64", tirx.ceil(imm(2 * reach, f) * tirx.max(imm(1, f), imm(1, f) / s))) + 1]

        taps = bind_vector(n, count, *tensors, dims=[have, want], count=1)[0]

    def coordinate(o: Any, s: Any, start: Any, end: Any, h: Any, w: Any) -> Any:
        half, one, zero = imm(0.5, f), imm(1, f), imm(0, f)
        p = tirx.Cast(f, o)
        length = s * h
        mode = plan.coordinates
        if mode == "half_pixel":
            return (p + half) / s - half
        if mode == "half_pixel_symmetric":
            return h / imm(2, f) * (one - w / length) + (p + half) / s - half
        if mode == "pytorch_half_pixel":
            return tirx.Select(length > one, (p + half) / s - half, zero)
        if mode == "asymmetric":
            return p / s
        if mode == "align_corners":
            return tirx.Select(length == one, zero, p * (h - one) / tirx.Select(length == one, one, length - one))
        if mode == "tf_half_pixel_for_nn":
            return (p + half) / s
        if mode == "tf_crop_and_resize":
            single = tirx.any(w == one, length == one)
            spread = p * (end - start) * (h - one) / tirx.Select(single, one, length - one) + start * (h - one)
            return tirx.Select(single, (end + start) * (h - one) / imm(2, f), spread)
        raise n.broken(f"has the unknown coordinate_transformation_mode '{mode}'")

    def rounded(x: Any, s: Any) -> Any:
        half = imm(0.5, f)
        modes = {
            "by_scale": lambda: tirx.Select(s < imm(1, f), tirx.ceil(x), tirx.floor(x)),
            "floor": lambda: tirx.floor(x),
            "ceil": lambda: tirx.ceil(x),
            "round_prefer_floor": lambda: tirx.ceil(x - half),
            "round_prefer_ceil": lambda: tirx.floor(x + half),
        }
        if plan.nearest not in modes:
            raise n.broken(f"has the unknown nearest_mode '{plan.nearest}'")
        return modes[plan.nearest]()

    def tables(*args: Any) -> list[Any]:
        *given, dims = args
        values = parts(*given, dims)
        s, h = values[0], values[3]
        width = dims[2]
        place = te.compute((dims[1],), lambda o: coordinate(o, *values), name="place")
        stretch = tirx.max(imm(1, f), imm(1, f) / s) if plan.antialias else imm(1, f)

        def tap(o: Any, k: Any) -> Any:
            x = place(o)
            if not reach:
                return rounded(x, s)
            if plan.antialias:
                wider = tirx.Select(
                    stretch > imm(1, f),
                    tirx.floor(x - imm(reach, f) * stretch) + imm(1, f),
                    tirx.floor(x) - imm(reach - 1, f),
                )
                return wider + tirx.Cast(f, k)
            return tirx.floor(x) - imm(reach - 1, f) + tirx.Cast(f, k)

        raw = te.compute((dims[1], width), tap, name="tap")

        def weigh(o: Any, k: Any) -> Any:
            if not reach:
                return imm(1, f)
            v = _filter_te(tirx.abs((place(o) - raw(o, k)) / stretch), plan, f)
            if plan.exclude_outside:
                v = tirx.Select(tirx.all(raw(o, k) >= imm(0, f), raw(o, k) < h), v, imm(0, f))
            return v

        weight = te.compute((dims[1], width), weigh, name="weight")
        index = te.compute(
            (dims[1], width),
            lambda o, k: tirx.Cast(  # the first element for NaN, which no comparison is true for
                "int32", tirx.Select(raw(o, k) > imm(0, f), tirx.min(raw(o, k), h - imm(1, f)), imm(0, f))
            ),
            name="index",
        )
        far = te.compute((dims[1],), lambda o: tirx.any(place(o) < imm(0, f), place(o) > h - imm(1, f)), name="outside")
        if plan.antialias or plan.exclude_outside:
            k = te.reduce_axis((0, width), name="k")
            total = te.compute((dims[1],), lambda o: te.sum(weight(o, k), axis=k), name="total")
            final = te.compute(
                (dims[1], width), lambda o, j: tirx.Cast(wide, weight(o, j) / total(o)), name="normal_weight"
            )
        else:
            final = te.compute((dims[1], width), lambda o, j: tirx.Cast(wide, weight(o, j)), name="final_weight")
        return [index, final, far]

    results = n.te(tables, *tensors, shape_expr([have, want, taps]), name="resize_table")
    index, weight, far = (n.emit(results[i]) for i in range(3))
    return index, weight, far if crop else None, taps


def _filter_te(d: Any, plan: _Plan, f: str) -> Any:
    zero, one = imm(0, f), imm(1, f)
    if plan.mode == "linear":
        return tirx.max(zero, one - d)
    a = plan.cubic_a
    near = (imm(a + 2, f) * d - imm(a + 3, f)) * d * d + one
    far = ((imm(a, f) * d - imm(5 * a, f)) * d + imm(8 * a, f)) * d - imm(4 * a, f)
    return tirx.Select(d <= one, near, tirx.Select(d < imm(2, f), far, zero))


@op("GridSample", since=[16, 20, 22])
def grid_sample(n: Node) -> Any:
    """Samples x [N, C, D1..Dk] at grid [N, E1..Ek, k]; the grid's last axis counts from the innermost dimension."""
    n.float_only()
    mode = n.str_attr("mode", "bilinear" if n.version == 16 else "linear")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    padding = n.choice("padding_mode", "zeros", "border", "reflection")
    align = n.flag("align_corners")
    x, grid = n.x(0), n.x(1)
    dims, where = dims_of(x), dims_of(grid)
    k = len(dims) - 2
    if len(where) != k + 2 or where[-1] != k:
        raise n.broken(f"has a grid of shape {list(where)} for data of rank {len(dims)}")
    if mode not in TAPS:
        raise n.broken(f"has the unknown mode '{mode}'")
    if mode == "cubic" and k != 2:
        raise n.refuse("cubic in other than two dimensions")
    return grid_sample_at(n.te, x, grid, mode, padding, align)
