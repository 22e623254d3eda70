"""Convolutions, pooling and resizing on channels-last tensors, and means over space, to kernel calls."""

from __future__ import annotations

import math

import tvm
from tvm import relax

from ._dims import extents, shape_of
from ._kernel_call import AttrValue, make_kernel_call
from ._ops import constant, is_f32, reshape
from ._rewrite import Rewriter, array_of, is_call, rewrite

__all__ = ["lower_convolutions", "windows_of"]

CONV_PACKING = "conv2d_f32_nr16_v1"
DEPTHWISE_PACKING = "depthwise_f32_c8_v1"
TRANSPOSED_PACKING = "conv_transpose2d_f32_v1"
GEMM_PACKING = "gemm_f32_nr16_v1"

MOST_FILTERS = 8  # a channel; of more a tile of 16 columns makes better use
MOST_LINES = 64  # of the image, which the kernel for several filters a channel keeps as it reads them
_METHODS = {"nearest_neighbor": "nearest", "linear": "linear", "cubic": "cubic"}
_COORDINATES = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
_ROUNDING = {name: name for name in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")} | {
    "round": "round_prefer_ceil"
}


def lower_convolutions(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _lower)


def _lower(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if not is_call(value) or not is_f32(value):
        return None
    name = str(value.op.name)
    if name == "relax.nn.conv2d":
        return _conv2d(var, value)
    if name == "relax.nn.conv2d_transpose":
        return _conv_transpose2d(var, value)
    if name in ("relax.nn.max_pool2d", "relax.nn.avg_pool2d"):
        return _pool2d(var, value)
    if name == "relax.nn.adaptive_avg_pool2d":
        return _adaptive_pool2d(rw, var, value)
    if name == "relax.mean":
        return _mean_over_space(rw, var, value)
    if name == "relax.max":
        return _max_over_space(rw, var, value)
    if name == "relax.image.resize2d":
        return _resize2d(var, value)
    return None


def _ints(values: object) -> list[int]:
    return [int(v) for v in values]  # type: ignore[attr-defined]


def _conv2d(var: relax.Var, value: relax.Call) -> relax.Expr | None:
    attrs, x = value.attrs, value.args[0]
    weight, shape = array_of(value.args[1]), shape_of(x)
    if (
        weight is None
        or shape is None
        or str(attrs.data_layout) != "NHWC"
        or str(attrs.kernel_layout) != "OIHW"
        or 0 in weight.shape
    ):
        return None
    out, depth, *kernel = weight.shape
    groups, strides, pads, dilations = (
        int(attrs.groups),
        _ints(attrs.strides),
        _ints(attrs.padding),
        _ints(attrs.dilation),
    )
    channels = depth * groups
    if groups == 1 and kernel == [1, 1] and strides == [1, 1] and not any(pads):  # every pixel is a row of a matrix
        matrix = constant(weight.reshape(out, channels))
        gemm = {"n": out, "k": channels, "w_trans": 1}
        return make_kernel_call("gemm_f32", [x, matrix], var.ty, gemm, packing=GEMM_PACKING, name=str(var.name))
    common: dict[str, AttrValue | int] = {
        "strides": strides,
        "pads": pads,
        "dilations": dilations,
        "groups": groups,
        "kernel": kernel,
        "channels": [channels, out],
    }
    near = out == channels or (kernel[0] - 1) * dilations[0] < MOST_LINES
    if groups == channels > 1 and 0 < out <= MOST_FILTERS * channels and near:
        contract, packing = "depthwise_conv2d_f32", DEPTHWISE_PACKING
    else:
        contract, packing = "conv2d_f32", CONV_PACKING
    return make_kernel_call(contract, [x, value.args[1]], var.ty, common, packing=packing, name=str(var.name))


def _conv_transpose2d(var: relax.Var, value: relax.Call) -> relax.Expr | None:
    attrs, x = value.attrs, value.args[0]
    weight = array_of(value.args[1])
    if weight is None or str(attrs.data_layout) != "NHWC" or str(attrs.kernel_layout) != "IOHW" or 0 in weight.shape:
        return None
    channels, depth, *kernel = weight.shape
    groups = int(attrs.groups)
    common: dict[str, AttrValue | int] = {
        "strides": _ints(attrs.strides),
        "pads": _ints(attrs.padding),
        "dilations": _ints(attrs.dilation),
        "output_padding": _ints(attrs.output_padding),
        "groups": groups,
        "kernel": kernel,
        "channels": [channels, depth * groups],
    }
    return make_kernel_call(
        "conv_transpose2d_f32", [x, value.args[1]], var.ty, common, packing=TRANSPOSED_PACKING, name=str(var.name)
    )


def _pool2d(var: relax.Var, value: relax.Call) -> relax.Expr | None:
    attrs = value.attrs
    if str(attrs.layout) != "NHWC":
        return None
    average = is_call(value, "relax.nn.avg_pool2d")
    pool: dict[str, AttrValue | int] = {"mode": "avg" if average else "max", **windows_of(value)}
    if average:
        pool["count_include_pad"] = int(bool(attrs.count_include_pad))
    return make_kernel_call("pool2d_f32", [value.args[0]], var.ty, pool, name=str(var.name))


def windows_of(pool: relax.Call) -> dict[str, AttrValue | int]:
    """The attributes of a two-dimensional pooling that its kernels share."""
    attrs = pool.attrs
    return {
        "kernel": _ints(attrs.pool_size),
        "strides": _ints(attrs.strides),
        "pads": _ints(attrs.padding),
        "dilations": _ints(attrs.dilation),
    }


def _adaptive_pool2d(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    shape, target = shape_of(value.args[0]), shape_of(var)
    if str(value.attrs.layout) != "NHWC" or shape is None or target is None:
        return None
    if target[1:3] == [1, 1]:
        return reshape(_global_average(rw, var, value.args[0]), target)
    sizes = [*shape[1:3], *target[1:3]]
    if not all(isinstance(size, int) and size > 0 for size in sizes) or sizes[0] % sizes[2] or sizes[1] % sizes[3]:
        return None
    window = [sizes[0] // sizes[2], sizes[1] // sizes[3]]
    return make_kernel_call(
        "pool2d_f32",
        [value.args[0]],
        var.ty,
        {"mode": "avg", "kernel": window, "strides": window, "pads": [0] * 4},
        name=str(var.name),
    )


def _global_average(rw: Rewriter, var: relax.Var, x: relax.Expr) -> relax.Expr:
    """[N, H, W, C] -> [N, C], bound."""
    shape = extents(x)
    out_ty = relax.TensorType([shape[0], shape[3]], "float32")
    return rw.emit(make_kernel_call("global_avg_pool_f32", [x], out_ty, {}, name=str(var.name)), str(var.name))


def _mean_over_space(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """A mean over all axes between the first and the last, which is what pooling does to [N, H, W, C]."""
    shape = shape_of(value.args[0])
    if shape is None or len(shape) not in (3, 4, 5) or value.attrs.axis is None:
        return None
    if sorted(int(axis) % len(shape) for axis in value.attrs.axis) != list(range(1, len(shape) - 1)):
        return None
    rows, columns = shape[1] * math.prod(shape[2:-2]), shape[-2] if len(shape) > 3 else 1
    x = rw.emit(reshape(value.args[0], [shape[0], rows, columns, shape[-1]]))
    return reshape(_global_average(rw, var, x), extents(var))


def _max_over_space(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    shape = shape_of(value.args[0])
    if (
        shape is None
        or len(shape) != 4
        or value.attrs.axis is None
        or not all(isinstance(extent, int) for extent in shape[1:3])
    ):
        return None
    if sorted(int(axis) % 4 for axis in value.attrs.axis) != [1, 2] or math.prod(shape[1:3]) == 0:
        return None
    out_ty = relax.TensorType([shape[0], 1, 1, shape[3]], "float32")
    window: dict[str, AttrValue] = {"mode": "max", "kernel": shape[1:3], "strides": shape[1:3], "pads": [0] * 4}
    out = rw.emit(make_kernel_call("pool2d_f32", [value.args[0]], out_ty, window, name=str(var.name)), str(var.name))
    return reshape(out, extents(var))


def _resize2d(var: relax.Var, value: relax.Call) -> relax.Expr | None:
    attrs = value.attrs
    method, coordinates = _METHODS.get(str(attrs.method)), str(attrs.coordinate_transformation_mode)
    if str(attrs.layout) != "NHWC" or method is None or coordinates not in _COORDINATES or int(attrs.cubic_exclude):
        return None
    resize: dict[str, AttrValue | float] = {"mode": method, "coordinates": coordinates}
    if method == "nearest":
        rounding = _ROUNDING.get(str(attrs.rounding_method))
        if rounding is None:
            return None
        resize["nearest_rounding"] = rounding
    if method == "cubic":
        resize["cubic_a"] = float(attrs.cubic_alpha)
    return make_kernel_call("resize2d_f32", [value.args[0]], var.ty, resize, name=str(var.name))
