"""Operators of detection and segmentation models: regions, deformable windows, unfolding and unpooling."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx
from tvm.script.ir_builder import tirx as T

from .._dims import Dim
from .._exprs import dims_of, shape_expr
from .._node import Node
from .._registry import op
from ._loops import imperative, variable
from ._runtime import bind_vector, list_length
from ._te import imm
from .indexing import check_places
from .nn import window_attrs


@op("AffineGrid", since=20)
def affine_grid(n: Node) -> Any:
    """theta [N, 2, 3] or [N, 3, 4] and size [N, C, (D,) H, W] -> the grid [N, (D,) H, W, 2 or 3]."""
    n.float_only()
    theta, dtype = n.x(0), n.dtype(0)
    k = list_length(n, 1) - 2
    size = n.dims(1, "size")
    if k not in (2, 3):
        raise n.broken(f"has a size of {k + 2} numbers")
    align = n.flag("align_corners")
    wide = "float64" if dtype == "float64" else "float32"
    batch = dims_of(theta)[0]
    for have, want in zip(dims_of(theta), (size[0], k, k + 1), strict=True):
        n.math.require_same(have, want)

    def body(t: Any, dims: Any) -> Any:
        def element(b: Any, *i: Any) -> Any:
            *at, row = i
            total = tirx.Cast(wide, t(b, row, k))
            for a in range(k):  # coordinates count from the innermost axis
                p, d = tirx.Cast(wide, at[k - 1 - a]), tirx.Cast(wide, dims[1 + k - 1 - a])
                one, two = imm(1, wide), imm(2, wide)
                if align:
                    place = tirx.Select(d > one, p * two / tirx.Select(d > one, d - one, one) - one, imm(-1, wide))
                else:
                    place = (two * p + one) / d - one
                total = total + tirx.Cast(wide, t(b, row, a)) * place
            return tirx.Cast(dtype, total)

        return te.compute(dims, element, name="affine_grid")

    return n.te(body, theta, shape_expr([batch, *size[2:], k]))


@op("RoiAlign", since=[10, 16, 22])
def roi_align(n: Node) -> Any:
    """x [N, C, H, W], rois [R, 4] as x1 y1 x2 y2, batch_indices [R] -> [R, C, oh, ow]"""
    n.float_only()
    x, rois, batches = n.x(0), n.x(1), n.x(2)
    dtype = n.dtype(0)
    wide = "float64" if dtype == "float64" else "float32"
    rows, columns = n.int_attr("output_height", 1), n.int_attr("output_width", 1)
    ratio, scale = n.int_attr("sampling_ratio", 0), n.float_attr("spatial_scale", 1.0)
    highest = n.choice("mode", "avg", "max") == "max"
    places = ("half_pixel", "output_half_pixel") if n.version >= 16 else ("output_half_pixel", "half_pixel")
    half = n.choice("coordinate_transformation_mode", *places) == "half_pixel"
    dims = dims_of(x)
    count = dims_of(rois)[0]
    check_places(n, 2, [dims[0]], wraps=False)

    def body(t: Any, boxes: Any, index: Any, shape: Any) -> Any:
        def write(image: Any, box: Any, batch: Any, out: Any) -> None:
            one, zero = imm(1, wide), imm(0, wide)
            height, width = t.shape[2], t.shape[3]
            with (
                T.serial(0, shape[0]) as r,
                T.serial(0, shape[1]) as c,
                T.serial(0, rows) as ph,
                T.serial(0, columns) as pw,
            ):
                offset = imm(0.5, wide) if half else zero
                x1, y1, x2, y2 = (tirx.Cast(wide, box[r * 4 + k]) * imm(scale, wide) - offset for k in range(4))
                w, h = x2 - x1, y2 - y1
                if not half:
                    w, h = tirx.max(w, one), tirx.max(h, one)
                bin_h, bin_w = h / imm(rows, wide), w / imm(columns, wide)
                grid_h = imm(ratio, "int64") if ratio > 0 else tirx.Cast("int64", tirx.ceil(h / imm(rows, wide)))
                grid_w = imm(ratio, "int64") if ratio > 0 else tirx.Cast("int64", tirx.ceil(w / imm(columns, wide)))
                samples = tirx.max(grid_h * grid_w, imm(1, "int64"))
                # An image that is not there reads the nearest one: of memory nothing but the tensor is read.
                at_image = tirx.max(imm(0, "int64"), tirx.min(tirx.Cast("int64", batch[r]), t.shape[0] - 1))
                base = (at_image * t.shape[1] + c) * height
                total, first = variable(wide), variable("bool")
                total[0] = zero
                first[0] = imm(True, "bool")
                with T.serial(0, grid_h) as iy, T.serial(0, grid_w) as ix:
                    sy = (
                        y1
                        + tirx.Cast(wide, ph) * bin_h
                        + (tirx.Cast(wide, iy) + imm(0.5, wide)) * bin_h / tirx.Cast(wide, grid_h)
                    )
                    sx = (
                        x1
                        + tirx.Cast(wide, pw) * bin_w
                        + (tirx.Cast(wide, ix) + imm(0.5, wide)) * bin_w / tirx.Cast(wide, grid_w)
                    )
                    y, x_, gone = variable(wide), variable(wide), variable("bool")
                    fh, fw = tirx.Cast(wide, height), tirx.Cast(wide, width)
                    gone[0] = tirx.any(sy < -one, sy > fh, sx < -one, sx > fw)
                    y[0] = tirx.max(zero, tirx.min(sy, fh - one))
                    x_[0] = tirx.max(zero, tirx.min(sx, fw - one))
                    low_y, low_x = tirx.Cast("int64", y[0]), tirx.Cast("int64", x_[0])
                    high_y, high_x = tirx.min(low_y + 1, height - 1), tirx.min(low_x + 1, width - 1)
                    ly, lx = y[0] - tirx.Cast(wide, low_y), x_[0] - tirx.Cast(wide, low_x)

                    def pixel(py: Any, px: Any, base: Any = base) -> Any:
                        return tirx.Cast(wide, image[(base + py) * width + px])

                    parts = [
                        (one - ly) * (one - lx) * pixel(low_y, low_x), (one - ly) * lx * pixel(low_y, high_x),
                        ly * (one - lx) * pixel(high_y, low_x), ly * lx * pixel(high_y, high_x),
                    ]  # fmt: skip
                    if highest:
                        value = tirx.max(tirx.max(parts[0], parts[1]), tirx.max(parts[2], parts[3]))
                        value = tirx.Select(gone[0], zero, value)
                        total[0] = tirx.Select(first[0], value, tirx.max(total[0], value))
                        first[0] = imm(False, "bool")
                    else:
                        value = parts[0] + parts[1] + parts[2] + parts[3]
                        total[0] = total[0] + tirx.Select(gone[0], zero, value)
                at = ((r * shape[1] + c) * rows + ph) * columns + pw
                out[at] = tirx.Cast(dtype, total[0] if highest else total[0] / tirx.Cast(wide, samples))

        return imperative([shape], [dtype], [t, boxes, index], write, "roi_align")[0]

    return n.te(body, x, rois, batches, shape_expr([count, dims[1], rows, columns]))


@op("MaxUnpool", since=[9, 11, 22])
def max_unpool(n: Node) -> Any:
    """Scatters x [N, C, ...] to the flat positions (within the default output shape) that MaxPool gave."""
    x, positions = n.x(0), n.x(1)
    dtype = n.dtype(0)
    kernel = n.ints_attr("kernel_shape")
    strides, _ = window_attrs(n, len(kernel), kernel)
    pads = n.ints_attr("pads", [0] * (2 * len(kernel)))
    dims = dims_of(x)
    natural: list[Dim] = [*dims[:2]]
    for a, d in enumerate(dims[2:]):
        size = n.math.add(n.math.mul(n.math.sub(d, 1), strides[a]), kernel[a])
        natural.append(n.math.sub(size, pads[a] + pads[a + len(kernel)]))
    check_places(n, 1, [n.math.product(natural)], wraps=False)
    out = natural
    if n.has(2):
        if not n.value(2).known:
            out = bind_vector(
                n, lambda t, _: [t(k) for k in range(len(dims))], n.cast(n.x(2), "int64"), count=len(dims)
            )
        else:
            out = n.dims(2, "output_shape")

    def body(t: Any, index: Any, shape: Any, plain: Any) -> Any:
        def write(source: Any, where: Any, result: Any) -> None:
            total: Any = imm(1, "int64")
            for e in shape:
                total = total * e
            count: Any = imm(1, "int64")
            for e in t.shape:
                count = count * e
            with T.serial(0, total) as i:
                result[i] = imm(0, dtype)
            with T.serial(0, count) as i:
                rest: Any = tirx.Cast("int64", where[i])
                at: Any = imm(0, "int64")
                parts = []
                for e in list(plain)[::-1]:
                    parts.append(tirx.floormod(rest, e))
                    rest = tirx.floordiv(rest, e)
                inside = [rest == 0]
                for p, e in zip(parts[::-1], shape, strict=True):
                    at = at * e + p
                    inside.append(p < e)
                with T.If(tirx.all(*inside)):
                    with T.Then():
                        result[at] = source[i]

        return imperative([shape], [dtype], [t, index], write, "max_unpool")[0]

    return n.te(body, x, positions, shape_expr(out), shape_expr(natural))


@op("Col2Im", since=18)
def col2im(n: Node) -> Any:
    """x [N, C * prod(block), L] -> [N, C, *image]: overlapping blocks are added up."""
    x, dtype = n.x(0), n.dtype(0)
    image = n.dims(1, "image_shape")
    block = n.dims(2, "block_shape")
    k = len(image)
    strides = n.ints_attr("strides", [1] * k)
    dilations = n.ints_attr("dilations", [1] * k)
    pads = n.ints_attr("pads", [0] * (2 * k))
    dims = dims_of(x)
    sizes = [d for d in (*image, *block) if isinstance(d, int)]
    if len(dims) != 3 or (len(block), len(strides), len(dilations), len(pads)) != (k, k, k, 2 * k):
        raise n.broken(f"has a block, strides, dilations or pads that do not fit an image of {k} axes")
    if any(v < 1 for v in (*sizes, *strides, *dilations)) or any(p < 0 for p in pads):
        raise n.broken("has an image, a block, strides or dilations below 1, or pads below 0")
    area = n.math.product(block)
    channels = n.math.floordiv(dims[1], area)
    steps = []
    for a in range(k):
        reach = n.math.add(n.math.mul(n.math.sub(block[a], 1), dilations[a]), 1)
        room = n.math.sub(n.math.add(image[a], pads[a] + pads[a + k]), reach)
        steps.append(n.math.add(n.math.floordiv(room, strides[a]), 1))
    n.math.require_same(dims[1], n.math.mul(channels, area))
    n.math.require_same(dims[2], n.math.product(steps))

    def body(t: Any, shape: Any, size: Any, blocks: Any) -> Any:
        ks = [te.reduce_axis((0, size[a]), name=f"k{a}") for a in range(k)]

        def element(b: Any, c: Any, *at: Any) -> Any:
            inside = []
            row: Any = imm(0, "int64")
            column: Any = c
            for a in range(k):
                reach = at[a] + pads[a] - ks[a] * dilations[a]
                place = tirx.floordiv(reach, strides[a])
                inside += [tirx.floormod(reach, strides[a]) == 0, place >= 0, place < blocks[a]]
                row = row * blocks[a] + place
                column = column * size[a] + ks[a]
            return te.sum(tirx.if_then_else(tirx.all(*inside), t(b, column, row), imm(0, dtype)), axis=ks)

        return te.compute(shape, element, name="col2im")

    return n.te(body, x, shape_expr([dims[0], channels, *image]), shape_expr(block), shape_expr(steps))


@op("DeformConv", since=[19, 22])
def deform_conv(n: Node) -> Any:
    """x [N, C, H, W], w [O, C/g, kh, kw], offset [N, og*kh*kw*2, oh, ow], bias?, mask? [N, og*kh*kw, oh, ow]"""
    n.float_only()
    x, w, offset = n.x(0), n.x(1), n.x(2)
    dtype = n.dtype(0)
    dims, weight = dims_of(x), dims_of(w)
    if len(dims) != 4 or not all(isinstance(d, int) for d in weight):
        raise n.refuse("in other than two dimensions, or with dynamic weights")
    groups, offset_groups = n.int_attr("group", 1), n.int_attr("offset_group", 1)
    kernel = list(weight[2:])
    strides, dilations = window_attrs(n, 2, kernel)
    pads = n.ints_attr("pads", [0] * 4)
    out = []
    for a in range(2):
        room = n.math.sub(n.math.add(dims[2 + a], pads[a] + pads[a + 2]), (kernel[a] - 1) * dilations[a] + 1)
        out.append(n.math.add(n.math.floordiv(room, strides[a]), 1))
    wide = "float64" if dtype == "float64" else "float32"
    per_out, per_in = weight[0] // groups, weight[1]
    per_offset = n.math.floordiv(dims[1], offset_groups)
    kh, kw = kernel
    has_bias, has_mask = n.has(3), n.has(4)
    taps = offset_groups * kh * kw
    n.math.require_same(dims[1], weight[1] * groups)
    for i, channels in ((2, taps * 2), (4, taps)):
        for have, want in zip(n.shape(i)[1:] if n.has(i) else (), (channels, *out), strict=False):
            n.math.require_same(have, want)

    def body(t: Any, v: Any, off: Any, *rest: Any) -> Any:
        *extra, shape = rest
        bias = extra[0] if has_bias else None
        mask = extra[-1] if has_mask else None
        sampled = [shape[0], t.shape[1], kh, kw, shape[2], shape[3]]

        def sample(b: Any, c: Any, i: Any, j: Any, oy: Any, ox: Any) -> Any:
            group = tirx.floordiv(c, shape[4])
            tap = (group * kh + i) * kw + j
            y = tirx.Cast(wide, oy * strides[0] - pads[0] + i * dilations[0]) + tirx.Cast(wide, off(b, tap * 2, oy, ox))
            x_ = tirx.Cast(wide, ox * strides[1] - pads[1] + j * dilations[1]) + tirx.Cast(
                wide, off(b, tap * 2 + 1, oy, ox)
            )
            low_y, low_x = tirx.floor(y), tirx.floor(x_)
            dy, dx = y - low_y, x_ - low_x
            one, far = imm(1, wide), imm(1e9, wide)
            total: Any = imm(0, wide)
            for up, wy in ((0, one - dy), (1, dy)):
                for right, wx in ((0, one - dx), (1, dx)):
                    py = tirx.Cast("int64", tirx.max(tirx.min(low_y, far), -far)) + up
                    px = tirx.Cast("int64", tirx.max(tirx.min(low_x, far), -far)) + right
                    inside = tirx.all(py >= 0, py < t.shape[2], px >= 0, px < t.shape[3])
                    safe_y = tirx.max(tirx.min(py, t.shape[2] - 1), imm(0, "int64"))
                    safe_x = tirx.max(tirx.min(px, t.shape[3] - 1), imm(0, "int64"))
                    total = total + tirx.Select(
                        inside, wy * wx * tirx.Cast(wide, t(b, c, safe_y, safe_x)), imm(0, wide)
                    )
            return total * tirx.Cast(wide, mask(b, tap, oy, ox)) if mask is not None else total

        columns = te.compute(sampled, sample, name="sampled")
        c, i, j = (
            te.reduce_axis((0, per_in), name="c"),
            te.reduce_axis((0, kh), name="i"),
            te.reduce_axis((0, kw), name="j"),
        )

        def element(b: Any, o: Any, oy: Any, ox: Any) -> Any:
            channel = tirx.floordiv(o, per_out) * per_in + c
            return te.sum(columns(b, channel, i, j, oy, ox) * tirx.Cast(wide, v(o, c, i, j)), axis=[c, i, j])

        total = te.compute(shape[:4], element, name="deform_conv")

        def finish(b: Any, o: Any, oy: Any, ox: Any) -> Any:
            value = total(b, o, oy, ox)
            return tirx.Cast(dtype, value + tirx.Cast(wide, bias(o)) if bias is not None else value)

        return te.compute(shape[:4], finish, name="deform_conv_out")

    extra = [n.x(i) for i in (3, 4) if n.has(i)]
    return n.te(body, x, w, offset, *extra, shape_expr([dims[0], weight[0], *out, per_offset]))
