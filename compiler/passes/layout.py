"""Channels last: convolutions, pooling and resizing run on [N, spatial..., C], and so does what lies between them.

One forward walk. What was computed channels-last is remembered beside its logical [N, C, spatial...] form, which is a
transpose that nobody may use and that then disappears; an operator with a channels-last operand computes
channels-last if it knows how. Transposes stay at the borders only. Convolutions in one and in three dimensions become
two-dimensional ones here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import tvm
from tvm import relax

from ..codegen import is_pointwise
from ._dims import extents, same, same_shape, shape_of
from ._encoded import encoded
from ._integers import known_integers
from ._kernel_call import kernel_outputs, read_kernel_call, remake_kernel_call
from ._ops import constant, dtype_of, is_f32, names, permute, regroup, reshape, same_move, slice_of
from ._rewrite import Array, Rewriter, array_of, call_of, is_call, rewrite, scalar_of
from .volumes import Bytes, convolve_volume, pool_volume

__all__ = ["channels_last"]

_UNARY = names(
    "abs acos acosh asin asinh astype atan atanh ceil clip cos cosh erf exp floor isfinite isinf isnan log logical_not "
    "negative round rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc nn.elu nn.gelu nn.gelu_tanh nn.leakyrelu "
    "nn.relu nn.relu6 nn.selu nn.silu nn.softplus"
)
_BROADCAST = names(
    "add subtract multiply divide maximum minimum power floor_divide mod floor_mod equal not_equal greater "
    "greater_equal less less_equal logical_and logical_or logical_xor where"
)
_REDUCE = {"relax." + name: name for name in ("sum", "mean", "max", "min", "prod", "variance", "std")}


def channels_last(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(rewrite(mod, _two_dimensional), _Layout(_pointwise_functions(mod)))


def _pointwise_functions(mod: tvm.IRModule) -> frozenset[str]:
    """The importers' generated functions that compute each element of their result from the same elements of their operands."""
    functions = mod.functions_items()
    return frozenset(str(g.name_hint) for g, f in functions if isinstance(f, tvm.tirx.PrimFunc) and is_pointwise(f))


def to_last(ndim: int) -> list[int]:
    """Axes of the transpose from [N, C, ...] to [N, ..., C]."""
    return [0, *range(2, ndim), 1]


def to_first(ndim: int) -> list[int]:
    return [0, ndim - 1, *range(1, ndim - 1)]


# ---- one dimension as two
# -----------------------------------------------------------------------------------------------------


def _two_dimensional(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    """conv1d and pooling over [N, C, L] as the two-dimensional operator over [N, C, 1, L]."""
    if (
        not is_call(value)
        or not is_f32(value)
        or (shape := shape_of(var)) is None
        or (source := shape_of(value.args[0])) is None
    ):
        return None
    name, attrs = str(value.op.name), value.attrs
    if name in ("relax.nn.conv1d", "relax.nn.conv1d_transpose"):
        kernel = "OIW" if name == "relax.nn.conv1d" else "IOW"
        if str(attrs.data_layout) != "NCW" or str(attrs.kernel_layout) != kernel:
            return None
        wide = _wide_filter(rw, value.args[1])
        if wide is None:
            return None
        common = {
            "strides": (1, int(attrs.strides[0])),
            "dilation": (1, int(attrs.dilation[0])),
            "groups": int(attrs.groups),
        }
        padding = (0, int(attrs.padding[0]), 0, int(attrs.padding[1]))
        x = rw.emit(reshape(value.args[0], [*source[:2], 1, source[2]]))
        if name == "relax.nn.conv1d":
            out = relax.op.nn.conv2d(x, wide, padding=padding, **common)
        else:
            extra = (0, int(attrs.output_padding[0]))
            out = relax.op.nn.conv2d_transpose(x, wide, padding=padding, output_padding=extra, **common)
        return reshape(rw.emit(out, str(var.name)), shape)
    if name in ("relax.nn.max_pool1d", "relax.nn.avg_pool1d") and str(attrs.layout) == "NCW":
        pool = relax.op.nn.max_pool2d if name == "relax.nn.max_pool1d" else relax.op.nn.avg_pool2d
        x = rw.emit(reshape(value.args[0], [*source[:2], 1, source[2]]))
        out = pool(
            x,
            (1, int(attrs.pool_size[0])),
            (1, int(attrs.strides[0])),
            (0, int(attrs.padding[0]), 0, int(attrs.padding[1])),
            (1, int(attrs.dilation[0])),
            bool(attrs.ceil_mode),
            bool(attrs.count_include_pad),
        )
        return reshape(rw.emit(out, str(var.name)), shape)
    if name == "relax.nn.adaptive_avg_pool1d" and str(attrs.layout) == "NCW":
        x = rw.emit(reshape(value.args[0], [*source[:2], 1, source[2]]))
        return reshape(
            rw.emit(relax.op.nn.adaptive_avg_pool2d(x, (1, int(attrs.output_size[0]))), str(var.name)), shape
        )
    return None


def _wide_filter(rw: Rewriter, filters: relax.Expr) -> relax.Expr | None:
    """Constant filters [O, I, W], those of few bits too, as [O, I, 1, W]."""
    array, known = array_of(filters), encoded(rw, filters)
    if array is not None:
        return constant(array[:, :, None, :])
    out, depth, width = extents(filters)
    wide = None if known is None else known.reshaped([out, depth, 1, width])
    return None if wide is None else rw.emit(wide.call(), "filters")


# ---- the walk
# -----------------------------------------------------------------------------------------------------------------


class _Layout:
    """The rule; `_channels_last` knows the channels-last form of a rewritten variable."""

    def __init__(self, pointwise: frozenset[str]) -> None:
        self._pointwise = pointwise
        self._channels_last: dict[relax.Var, relax.Expr] = {}

    def __call__(self, rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if not is_call(value):
            return None
        name = str(value.op.name)
        anchor = _ANCHORS.get(name)
        if anchor is not None and (is_f32(value) or _of_integers(rw, value)):
            last = anchor(self, rw, value)
            return None if last is None else self._result(rw, var, last)
        if name == "relax.matmul":
            return self._linear_after_flatten(rw, var, value)
        if name == "relax.split":
            return self._split(rw, var, value)
        if name in _REDUCE:
            return self._reduce(rw, var, name, value)
        if name == "relax.call_dps_packed":
            return self._dynamic_quantize(rw, var, value)
        if name == "relax.call_tir":
            return self._generated(rw, var, value)
        if name == "relax.permute_dims":
            return self._put_first(rw, var, value)
        last = self._follow(rw, var, name, value)
        return None if last is None else self._result(rw, var, last)

    # -- forms

    def _channels_last_of(self, expr: relax.Expr) -> relax.Expr | None:
        return self._channels_last.get(expr) if isinstance(expr, tvm.ir.Var) else None

    def to_channels_last(self, rw: Rewriter, expr: relax.Expr, ndim: int = 4) -> relax.Expr:
        """The channels-last form of an operand, which may have fewer axes than the result it broadcasts into."""
        known = self._channels_last_of(expr)
        if known is not None and expr.ty.ndim == ndim:
            return known
        array = array_of(expr)
        if array is not None:
            return expr if array.ndim == 0 else constant(_padded(array, ndim).transpose(to_last(ndim)))
        if expr.ty.ndim == 0:
            return expr
        shape = extents(expr)
        full = rw.emit(reshape(expr, [1] * (ndim - len(shape)) + shape)) if len(shape) < ndim else expr
        last = rw.emit(permute(full, to_last(ndim)))
        if full is expr and isinstance(expr, tvm.ir.Var):
            self._channels_last[expr] = last
        return last

    def _result(self, rw: Rewriter, var: relax.Var, last: relax.Expr) -> relax.Expr:
        """Bind a channels-last result; what the rest of the walk sees is its logical form."""
        bound = rw.emit(last, str(var.name))
        logical = rw.emit(permute(bound, to_first(bound.ty.ndim)), str(var.name))
        if not isinstance(logical, tvm.ir.Var) or logical.same_as(bound):
            return logical
        self._channels_last[logical] = bound
        return logical

    # -- operators that follow

    def _follow(self, rw: Rewriter, var: relax.Var, name: str, value: relax.Call) -> relax.Expr | None:
        """The operator on channels-last operands, where one of them is known in that form."""
        ndim = value.ty.ndim if isinstance(value.ty, relax.TensorType) else -1
        if name in _UNARY:
            known = self._channels_last_of(value.args[0])
            return None if known is None else call_of(name, [known, *value.args[1:]], value.attrs)
        if name in _BROADCAST:
            if ndim < 3 or not any(
                self._channels_last_of(arg) is not None and arg.ty.ndim == ndim for arg in value.args
            ):
                return None
            if any(shape_of(arg) is None for arg in value.args):
                return None
            return call_of(name, [self.to_channels_last(rw, arg, ndim) for arg in value.args], value.attrs)
        if name == "relax.concat":
            fields = list(value.args[0].fields) if isinstance(value.args[0], relax.Tuple) else []
            if value.attrs.axis is None or not any(self._channels_last_of(field) is not None for field in fields):
                return None
            axis = to_last(ndim).index(int(value.attrs.axis) % ndim)
            return relax.op.concat([self.to_channels_last(rw, field, ndim) for field in fields], axis)
        known = self._channels_last_of(value.args[0]) if value.args else None
        if known is None:
            return None
        if name in ("relax.quantize", "relax.dequantize"):  # by one scale; others stay in their logical form
            return call_of(name, [known, *value.args[1:]], value.attrs) if value.args[1].ty.ndim == 0 else None
        place = to_last(known.ty.ndim).index  # of a logical axis in the channels-last form
        if name in ("relax.nn.softmax", "relax.nn.log_softmax"):
            op = relax.op.nn.softmax if name == "relax.nn.softmax" else relax.op.nn.log_softmax
            return op(known, place(int(value.attrs.axis) % ndim))
        if name == "relax.nn.prelu":
            if int(value.attrs.axis) % ndim != 1:
                return None
            return relax.op.nn.prelu(known, value.args[1], ndim - 1)
        if name == "relax.nn.pad":
            width = [int(w) for w in value.attrs.pad_width]
            moved = [width[2 * axis + side] for axis in to_last(ndim) for side in (0, 1)]
            return relax.op.nn.pad(known, moved, str(value.attrs.pad_mode), float(value.attrs.pad_value))
        if name == "relax.strided_slice":
            axes = [place(axis) for axis, *_ in slice_of(value)]
            rest = [list(arg.fields) for arg in value.args[2:]]
            return relax.op.strided_slice(known, axes, *rest, assume_inbound=bool(value.attrs.assume_inbound))
        if name == "relax.reshape":
            return self._reshape(var, value, known)
        if name == "relax.broadcast_to":
            target = shape_of(var)
            if target is None or len(target) != known.ty.ndim:
                return None
            return relax.op.broadcast_to(known, relax.ShapeExpr([target[axis] for axis in to_last(len(target))]))
        return None

    def _reduce(self, rw: Rewriter, var: relax.Var, name: str, value: relax.Call) -> relax.Expr | None:
        """The same reduction over permuted axes; without kept axes what remains is put back into its logical order."""
        known = self._channels_last_of(value.args[0])
        if known is None or value.attrs.axis is None:
            return None
        ndim = known.ty.ndim
        axes = [to_last(ndim).index(int(axis) % ndim) for axis in value.attrs.axis]
        keep = bool(value.attrs.keepdims)
        reduced = rw.emit(getattr(relax.op, _REDUCE[name])(known, sorted(axes), keep), str(var.name))
        if keep:
            return self._result(rw, var, reduced)
        left = [
            axis for axis in to_last(ndim) if to_last(ndim).index(axis) not in axes
        ]  # logical axes, in the order they have now
        return permute(reduced, [left.index(axis) for axis in sorted(left)])

    def _split(self, rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
        known = self._channels_last_of(value.args[0])
        if known is None:
            return None
        axis = to_last(known.ty.ndim).index(int(value.attrs.axis) % known.ty.ndim)
        sections = value.attrs.indices_or_sections
        plain = [int(s) for s in sections] if hasattr(sections, "__len__") else int(sections)
        parts = rw.emit(relax.op.split(known, plain, axis), str(var.name))
        fields = [rw.emit(relax.TupleGetItem(parts, i)) for i in range(len(parts.ty.fields))]
        return relax.Tuple([self._result(rw, var, field) for field in fields])

    def _generated(self, rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
        """A function of single elements runs on them in any order: what lies channels-last is given to it as if it did not."""
        operands, shape = list(value.args[1].fields), shape_of(var)
        if str(value.args[0].name_hint) not in self._pointwise or shape is None or len(shape) < 3:
            return None
        if not any(self._channels_last_of(operand) is not None for operand in operands):
            return None
        if any(not same_shape(shape_of(operand), shape) for operand in operands):
            return None
        views = [rw.emit(reshape(self.to_channels_last(rw, operand, len(shape)), shape)) for operand in operands]
        call = tvm.ir.Call(value.op, [value.args[0], relax.Tuple(views), *value.args[2:]], value.attrs, value.ty_args)
        out = rw.emit(call, str(var.name))
        return self._result(rw, var, reshape(out, [shape[axis] for axis in to_last(len(shape))]))

    def _put_first(self, rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
        """A source that puts the channels of an image or a volume first has them channels-last before."""
        ndim = value.ty.ndim
        if ndim < 4 or value.attrs.axes is None or [int(axis) % ndim for axis in value.attrs.axes] != to_first(ndim):
            return None
        return self._result(rw, var, value.args[0])

    def _dynamic_quantize(self, rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
        """Quantization by the range of all elements, whose order does not matter."""
        call = read_kernel_call(value)
        known = (
            self._channels_last_of(call.args[0])
            if call is not None and call.contract == "dynamic_quantize_u8"
            else None
        )
        if call is None or known is None:
            return None
        _, *numbers = kernel_outputs(value)
        types = [relax.TensorType(known.ty.shape, "uint8"), *numbers]
        parts = rw.emit(remake_kernel_call(replace(call, args=[known]), types), str(var.name))
        fields = [rw.emit(relax.TupleGetItem(parts, i)) for i in range(3)]
        return relax.Tuple([self._result(rw, var, fields[0]), *fields[1:]])

    def _reshape(self, var: relax.Var, value: relax.Call, known: relax.Expr) -> relax.Expr | None:
        """A reshape that keeps N and C and only regroups the spatial axes, as between [N, C, L] and [N, C, 1, L]."""
        before, after = shape_of(value.args[0]), shape_of(var)
        if (
            before is None
            or after is None
            or len(after) < 3
            or not same(before[0], after[0])
            or not same(before[1], after[1])
        ):
            return None
        if regroup(before[2:], after[2:]) is None:
            return None
        return reshape(known, [after[0], *after[2:], after[1]])

    def _linear_after_flatten(self, rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
        """matmul(flatten(x), W) with x channels-last: flatten as it lies, and order W's rows alike."""
        flat = rw.call(value.args[0], "relax.reshape")
        weight = array_of(value.args[1])
        if flat is None or weight is None or weight.ndim != 2:
            return None
        known = self._channels_last_of(flat.args[0])
        shape, target = shape_of(flat.args[0]), extents(value.args[0])
        if known is None or shape is None:
            return None
        if (
            len(target) != 2
            or not same(shape[0], target[0])
            or any(not isinstance(extent, int) for extent in shape[1:])
        ):
            return None
        rows = weight.reshape(*shape[1:], weight.shape[1])
        turned = rows.transpose([*range(1, rows.ndim - 1), 0, rows.ndim - 1]).reshape(weight.shape)
        x = rw.emit(reshape(known, target))
        return call_of("relax.matmul", [x, constant(turned)], value.attrs)


# ---- operators that ask for channels last
# -----------------------------------------------------------------------------------


def _conv2d(layout: _Layout, rw: Rewriter, value: relax.Call) -> relax.Expr | None:
    """Both directions of convolution, with constant weights (which kernels want packed)."""
    attrs = value.attrs
    forward = is_call(value, "relax.nn.conv2d")
    weights = value.args[1]
    if is_f32(*value.args) and array_of(weights) is None and encoded(rw, weights) is None:
        return None
    if str(attrs.data_layout) != "NCHW" or str(attrs.kernel_layout) != ("OIHW" if forward else "IOHW"):
        return None
    common = {
        "strides": [int(s) for s in attrs.strides],
        "padding": [int(p) for p in attrs.padding],
        "dilation": [int(d) for d in attrs.dilation],
        "groups": int(attrs.groups),
        "data_layout": "NHWC",
        "kernel_layout": str(attrs.kernel_layout),
    }
    x = layout.to_channels_last(rw, value.args[0])
    if forward:
        return relax.op.nn.conv2d(x, value.args[1], **common)
    extra = [int(p) for p in attrs.output_padding]
    return relax.op.nn.conv2d_transpose(x, value.args[1], output_padding=extra, **common)


def _of_integers(rw: Rewriter, value: relax.Call) -> bool:
    """Whether this is a convolution of integers with known filters."""
    return (
        is_call(value, "relax.nn.conv2d")
        and dtype_of(value) == "int32"
        and known_integers(rw, value.args[1]) is not None
    )


def _pool2d(layout: _Layout, rw: Rewriter, value: relax.Call) -> relax.Expr | None:
    attrs = value.attrs
    if str(attrs.layout) != "NCHW":
        return None
    op = relax.op.nn.max_pool2d if is_call(value, "relax.nn.max_pool2d") else relax.op.nn.avg_pool2d
    return op(
        layout.to_channels_last(rw, value.args[0]),
        [int(k) for k in attrs.pool_size],
        [int(s) for s in attrs.strides],
        [int(p) for p in attrs.padding],
        [int(d) for d in attrs.dilation],
        bool(attrs.ceil_mode),
        bool(attrs.count_include_pad),
        "NHWC",
    )


def _adaptive_pool2d(layout: _Layout, rw: Rewriter, value: relax.Call) -> relax.Expr | None:
    attrs = value.attrs
    if str(attrs.layout) != "NCHW":
        return None
    size = None if attrs.output_size is None else [int(s) for s in attrs.output_size]
    return relax.op.nn.adaptive_avg_pool2d(layout.to_channels_last(rw, value.args[0]), size, "NHWC")


def _conv3d(layout: _Layout, rw: Rewriter, value: relax.Call) -> relax.Expr | None:
    attrs, weight, x = value.attrs, array_of(value.args[1]), value.args[0]
    if str(attrs.data_layout) != "NCDHW" or str(attrs.kernel_layout) != "OIDHW" or not is_f32(*value.args):
        return None
    filters, x = encoded(rw, value.args[1]), layout.to_channels_last(rw, x, 5)
    if weight is not None and weight.size:
        return convolve_volume(rw, x, weight, attrs)
    if filters is None or not filters.values.size or (bytes_ := _bytes_behind(rw, x)) is None:
        return None
    parts = filters.at(0)
    if parts is None:
        return None  # scales of something else than outputs
    q, scale, zero = bytes_
    return convolve_volume(rw, q, filters.values, attrs, Bytes((scale, zero), parts))


def _bytes_behind(rw: Rewriter, x: relax.Expr) -> tuple[relax.Expr, relax.Expr, relax.Expr] | None:
    """The numbers of 8 bits that `x` is when they are dequantized by one scale, and that, and the zero point: bytes are moved as it was."""
    moves: list[Callable[[relax.Expr], relax.Expr]] = []
    while (move := rw.call(x, "relax.reshape", "relax.permute_dims")) is not None:
        moves.append(same_move(move))
        x = move.args[0]
    call = rw.call(x, "relax.dequantize")
    if call is None or dtype_of(call.args[0]) not in ("uint8", "int8"):
        return None
    if any(scalar_of(arg) is None for arg in call.args[1:]):
        return None
    q = call.args[0]
    for move_too in reversed(moves):
        q = rw.emit(move_too(q))
    return q, call.args[1], call.args[2]


def _pool3d(layout: _Layout, rw: Rewriter, value: relax.Call) -> relax.Expr | None:
    if str(value.attrs.layout) != "NCDHW":
        return None
    op = relax.op.nn.max_pool2d if is_call(value, "relax.nn.max_pool3d") else relax.op.nn.avg_pool2d
    return pool_volume(rw, layout.to_channels_last(rw, value.args[0], 5), op, value.attrs)


def _resize2d(layout: _Layout, rw: Rewriter, value: relax.Call) -> relax.Expr | None:
    attrs = value.attrs
    if str(attrs.layout) != "NCHW":
        return None
    return relax.op.image.resize2d(
        layout.to_channels_last(rw, value.args[0]),
        value.args[1],
        tuple(float(r) for r in attrs.roi),
        "NHWC",
        str(attrs.method),
        str(attrs.coordinate_transformation_mode),
        str(attrs.rounding_method),
        float(attrs.cubic_alpha),
        int(attrs.cubic_exclude),
        float(attrs.extrapolation_value),
    )


_ANCHORS: dict[str, Callable[[_Layout, Rewriter, relax.Call], relax.Expr | None]] = {
    "relax.nn.conv2d": _conv2d,
    "relax.nn.conv2d_transpose": _conv2d,
    "relax.nn.max_pool2d": _pool2d,
    "relax.nn.avg_pool2d": _pool2d,
    "relax.nn.adaptive_avg_pool2d": _adaptive_pool2d,
    "relax.nn.conv3d": _conv3d,
    "relax.nn.max_pool3d": _pool3d,
    "relax.nn.avg_pool3d": _pool3d,
    "relax.image.resize2d": _resize2d,
}


def _padded(array: Array, ndim: int) -> Array:
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)
