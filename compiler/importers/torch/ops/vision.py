"""torchvision's own operators: suppression of boxes, and regions of feature maps. Their formulas are those of its CPU kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax, tirx
from tvm.script.ir_builder import tirx as T

from ..._imperative import imperative, variable
from .._context import Context, Expr
from .._registry import NotConvertible, converts
from .reduce import ordered

OP = relax.op


def _int64(value: int) -> Any:
    return tirx.IntImm("int64", value)


def _of(dtype: str) -> Callable[[Any], Any]:
    """Numbers and values as the dtype."""

    def make(value: Any) -> Any:
        return tirx.FloatImm(dtype, value) if isinstance(value, (int, float)) else tirx.Cast(dtype, value)

    return make


@converts("torchvision.nms.default")
def nms(c: Context, dets: Expr, scores: Expr, iou_threshold: float) -> Expr:
    """dets [N, 4] as x1 y1 x2 y2, scores [N] -> int64 [kept]: greedily, the highest score first."""
    return _suppressed(c, dets, scores, None, iou_threshold)


@converts("maas_rt.batched_nms.default")
def batched_nms(c: Context, boxes: Expr, scores: Expr, idxs: Expr, iou_threshold: float) -> Expr:
    """The same among boxes of one class each; those kept, the highest score first."""
    return _suppressed(c, boxes, scores, c.cast(idxs, "int64"), iou_threshold)


def _suppressed(c: Context, boxes: Expr, scores: Expr, classes: Expr | None, threshold: float) -> Expr:
    dtype = c.dtype(boxes)
    if dtype not in ("float32", "float64"):
        raise NotConvertible(f"boxes of {dtype}")
    _, order = ordered(c, scores, 0, c.shape(scores)[0], largest=True)

    def build(box: Any, sequence: Any, *kind: Any) -> Any:
        def write(corner: Any, ranked: Any, *rest: Any) -> None:
            kept, total = rest[-2:]
            found, alive = variable("int64"), variable("bool")
            found[0] = _int64(0)
            with T.serial(0, sequence.shape[0]) as i:
                mine = ranked[i]
                alive[0] = tirx.IntImm("bool", 1)
                with T.serial(0, found[0]) as j:
                    other = kept[j]
                    with T.If(_covers(corner, other, mine, dtype, threshold)):
                        with T.Then():
                            if kind:
                                alive[0] = tirx.all(alive[0], rest[0][other] != rest[0][mine])
                            else:
                                alive[0] = tirx.IntImm("bool", 0)
                with T.If(alive[0]):
                    with T.Then():
                        kept[found[0]] = mine
                        found[0] = found[0] + 1
            total[0] = found[0]

        return imperative([[sequence.shape[0]], [1]], ["int64", "int64"], [box, sequence, *kind], write, "nms")

    given = [boxes, order] if classes is None else [boxes, order, classes]
    kept, total = c.generated(build, *given, name="nms")
    return c.slice(kept, 0, 0, c.counted_size(c.result.shape[0], total))


def _covers(corner: Any, p: Any, q: Any, dtype: str, threshold: float) -> Any:
    """Whether the intersection over union of boxes p and q is above the threshold, which is compared as a double."""
    (a0, b0, a1, b1), (c0, d0, c1, d1) = ([corner[at * 4 + k] for k in range(4)] for at in (p, q))
    zero = tirx.FloatImm(dtype, 0.0)
    wide = tirx.max(zero, tirx.min(a1, c1) - tirx.max(a0, c0))
    high = tirx.max(zero, tirx.min(b1, d1) - tirx.max(b0, d0))
    common = wide * high
    union = (a1 - a0) * (b1 - b0) + (c1 - c0) * (d1 - d0) - common
    return tirx.Cast("float64", common / union) > tirx.FloatImm("float64", threshold)


@converts("torchvision.roi_align.default")
def roi_align(c: Context, input: Expr, rois: Expr, spatial_scale: float, pooled_height: int, pooled_width: int,
              sampling_ratio: int, aligned: bool) -> Expr:  # fmt: skip
    """input [N, C, H, W], rois [R, 5] as image x1 y1 x2 y2 -> [R, C, ph, pw]: means of bilinear samples."""
    dtype = c.dtype(input)
    if dtype not in ("float32", "float64") or not isinstance(pooled_height, int) or not isinstance(pooled_width, int):
        raise NotConvertible(f"features of {dtype}, or bins whose number is dynamic")
    real = _of(dtype)
    shape = [c.shape(rois)[0], c.shape(input)[1], pooled_height, pooled_width]

    def build(features: Any, boxes: Any) -> Any:
        height, width = features.shape[2], features.shape[3]

        def write(image: Any, box: Any, out: Any) -> None:
            one, half = real(1.0), real(0.5)
            with T.serial(0, boxes.shape[0]) as r, T.serial(0, features.shape[1]) as channel:
                offset = real(0.5 if aligned else 0.0)
                x1, y1, x2, y2 = (box[r * 5 + 1 + k] * real(spatial_scale) - offset for k in range(4))
                w, h = (x2 - x1, y2 - y1) if aligned else (tirx.max(x2 - x1, one), tirx.max(y2 - y1, one))
                bin_h, bin_w = h / real(pooled_height), w / real(pooled_width)
                fixed = sampling_ratio > 0
                grid_h = _int64(sampling_ratio) if fixed else tirx.Cast("int64", tirx.ceil(bin_h))
                grid_w = _int64(sampling_ratio) if fixed else tirx.Cast("int64", tirx.ceil(bin_w))
                # An image that is not there, NaN too, reads the nearest one: of memory nothing but the tensor is read.
                last = tirx.Cast(dtype, features.shape[0] - 1)
                which = tirx.Select(box[r * 5] > real(0.0), tirx.min(box[r * 5], last), real(0.0))
                base = (tirx.Cast("int64", which) * features.shape[1] + channel) * height
                with T.serial(0, pooled_height) as ph, T.serial(0, pooled_width) as pw:
                    total = variable(dtype)
                    total[0] = real(0.0)
                    with T.serial(0, grid_h) as iy, T.serial(0, grid_w) as ix:
                        y = y1 + real(ph) * bin_h + (real(iy) + half) * bin_h / real(grid_h)
                        x = x1 + real(pw) * bin_w + (real(ix) + half) * bin_w / real(grid_w)
                        total[0] = total[0] + _sampled(image, base, y, x, height, width, real)
                    place = ((r * features.shape[1] + channel) * pooled_height + ph) * pooled_width + pw
                    out[place] = total[0] / real(tirx.max(grid_h * grid_w, _int64(1)))

        wanted = [boxes.shape[0], features.shape[1], pooled_height, pooled_width]
        return imperative([wanted], [dtype], [features, boxes], write, "roi_align")[0]

    return c.reshape(c.generated(build, input, rois, name="roi_align")[0], shape)


def _sampled(image: Any, base: Any, y: Any, x: Any, height: Any, width: Any, real: Callable[[Any], Any]) -> Any:
    """The bilinear sample of rows base.. of an image, 0 from one pixel outside on."""
    one, zero = real(1.0), real(0.0)
    gone = tirx.any(y < -one, y > real(height), x < -one, x > real(width))
    at_y, at_x = variable(str(one.ty.dtype)), variable(str(one.ty.dtype))
    at_y[0] = tirx.max(zero, tirx.min(y, real(height) - one))
    at_x[0] = tirx.max(zero, tirx.min(x, real(width) - one))
    low_y, low_x = tirx.Cast("int64", at_y[0]), tirx.Cast("int64", at_x[0])
    high_y, high_x = tirx.min(low_y + 1, height - 1), tirx.min(low_x + 1, width - 1)
    ly, lx = at_y[0] - real(low_y), at_x[0] - real(low_x)

    def pixel(row: Any, column: Any) -> Any:
        return image[(base + row) * width + column]

    value = (one - ly) * (one - lx) * pixel(low_y, low_x) + (one - ly) * lx * pixel(low_y, high_x)
    value = value + ly * (one - lx) * pixel(high_y, low_x) + ly * lx * pixel(high_y, high_x)
    return tirx.Select(gone, zero, value)
