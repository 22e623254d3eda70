"""Batch norm of inference, and other per-channel scales, into the weights of the convolution or linear layer before
them.

What cannot be folded becomes a multiplication and an addition with constants per channel.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from ._dims import extents, shape_of
from ._ops import constant, is_f32, reshape
from ._rewrite import Array, Rewriter, array_of, call_of, is_call, rewrite

__all__ = ["fold_batch_norm"]

_OUT_AXIS = {"relax.nn.conv1d": 0, "relax.nn.conv2d": 0, "relax.nn.conv3d": 0, "relax.matmul": 1}
_TRANSPOSED = ("relax.nn.conv1d_transpose", "relax.nn.conv2d_transpose", "relax.nn.conv3d_transpose")


def fold_batch_norm(mod: tvm.IRModule) -> tvm.IRModule:
    """First batch norms become scale and shift, then scales move into weights and shifts meet."""
    return rewrite(rewrite(mod, _decompose), _fold)


def _decompose(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    """batch_norm(x) -> (x * scale + shift, mean, variance); with constants, scale and shift are made in double precision."""
    if not is_call(value, "relax.nn.batch_norm") or bool(value.attrs.training) or not is_f32(value.args[0]):
        return None
    x, gamma, beta, mean, variance = value.args
    attrs, ndim = value.attrs, x.ty.ndim
    spread = [-1] + [1] * (ndim - 1 - int(attrs.axis) % ndim)
    arrays = [array.astype(np.float64) for array in map(array_of, value.args[1:5]) if array is not None]
    if len(arrays) == 4:
        factor = (arrays[0] if attrs.scale else 1.0) / np.sqrt(arrays[3] + float(attrs.epsilon))
        offset = (arrays[1] if attrs.center else 0.0) - arrays[2] * factor
        scale, shift = (constant(np.reshape(v, spread).astype(np.float32)) for v in (factor, offset))
    else:
        deviation = rw.emit(
            relax.op.sqrt(rw.emit(relax.op.add(variance, relax.const(float(attrs.epsilon), "float32"))))
        )
        one = gamma if attrs.scale else relax.const(1.0, "float32")
        scale = rw.emit(relax.op.divide(one, deviation))
        moved = rw.emit(relax.op.multiply(mean, scale))
        shift = rw.emit(relax.op.subtract(beta, moved) if attrs.center else relax.op.negative(moved))
        channels = [extents(mean)[0], *spread[1:]]
        scale, shift = (rw.emit(reshape(v, channels)) for v in (scale, shift))
    name = str(var.name)
    scaled = rw.emit(relax.op.multiply(x, scale), name)
    return relax.Tuple([rw.emit(relax.op.add(scaled, shift), name), mean, variance])


def _fold(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    if is_call(value, "relax.multiply", "relax.divide") and is_f32(value):
        return _fold_scale(rw, var, value)
    if is_call(value, "relax.add", "relax.subtract") and is_f32(value):
        return _join_shift(rw, value)
    return None


def _fold_scale(rw: Rewriter, var: relax.Var, value: relax.Call) -> relax.Expr | None:
    """layer(x, w) * c -> layer(x, w * c), and (layer(x, w) + b) * c -> layer(x, w * c) + b * c."""
    source, factor = _with_constant(value)
    if source is None or factor is None or not rw.single_use(source):
        return None
    if is_call(value, "relax.divide"):
        if not np.all(factor):
            return None
        factor = 1.0 / factor
    added = rw.call(source, "relax.add")
    shift = None
    if added is not None:
        source, shift = _with_constant(added)
        if source is None or not rw.single_use(source):
            return None
    layer = rw.definition(source)
    if not is_call(layer) or len(shape_of(var) or []) != layer.ty.ndim:
        return None
    scaled = _scaled_layer(layer, factor)
    if scaled is None:
        return None
    result = rw.emit(scaled, str(source.name))
    return (
        result
        if shift is None
        else relax.op.add(result, constant((shift.astype(np.float64) * factor).astype(np.float32)))
    )


def _join_shift(rw: Rewriter, value: relax.Call) -> relax.Expr | None:
    """(layer(x) + a) + b -> layer(x) + (a + b) for constants; x - c -> x + (-c)."""
    source, shift = _with_constant(value)
    if source is None or shift is None:
        return None
    if is_call(value, "relax.subtract"):
        shift = -shift
    inner = rw.call(source, "relax.add")
    if inner is not None and rw.single_use(source):
        base, first = _with_constant(inner)
        # Of a layer's result alone: elsewhere (x + c) - c may be meant to round.
        if base is not None and first is not None and _of_layer(rw, base) and _vector(first) and _vector(shift):
            return relax.op.add(base, constant((first + shift).astype(np.float32)))
    return relax.op.add(source, constant(shift.astype(np.float32))) if is_call(value, "relax.subtract") else None


def _of_layer(rw: Rewriter, expr: relax.Expr) -> bool:
    """Whether a convolution or a product computes it, up to views."""
    while (view := rw.call(expr, "relax.reshape", "relax.permute_dims")) is not None:
        expr = view.args[0]
    return rw.call(expr, *_OUT_AXIS, *_TRANSPOSED) is not None


def _vector(array: Array) -> bool:
    """Whether at most one axis of it is longer than 1: then a sum of two of them per channel stays small."""
    return len([extent for extent in array.shape if extent > 1]) <= 1


def _with_constant(call: relax.Call) -> tuple[relax.Expr | None, Array | None]:
    """(the other operand, the constant) of a binary call whose constant broadcasts into the other operand's shape."""
    a, b = call.args
    array = array_of(b)
    other = a
    if array is None and not is_call(call, "relax.divide", "relax.subtract"):
        array, other = array_of(a), b
    if array is None or isinstance(other, tvm.ir.GenericConst) or other.ty.ndim < array.ndim:
        return None, None
    shape = shape_of(other)
    if shape is None or any(
        extent > 1 and shape[-1 - i] != extent for i, extent in enumerate(reversed(array.shape)) if extent > 1
    ):
        return None, None
    return other, array.astype(np.float64)


def _scaled_layer(layer: relax.Call, factor: Array) -> relax.Expr | None:
    """The layer with its weights multiplied by a factor per output channel; None where the factor is no such thing."""
    name = str(layer.op.name)
    transposed = name in _TRANSPOSED
    if name not in _OUT_AXIS and not transposed:
        return None
    weight = array_of(layer.args[1])
    if weight is None or weight.dtype != np.float32:
        return None
    ndim = layer.ty.ndim
    channel = ndim - 1 if name == "relax.matmul" else 1
    if name == "relax.matmul" and weight.ndim != 2:
        return None
    if name != "relax.matmul" and (
        not str(layer.attrs.data_layout).startswith("NC") or str(layer.attrs.kernel_layout)[:2] not in ("OI", "IO")
    ):
        return None
    if transposed and (int(layer.attrs.groups) != 1 or not str(layer.attrs.kernel_layout).startswith("IO")):
        return None
    padded = factor.reshape((1,) * (ndim - factor.ndim) + factor.shape)
    if any(extent > 1 for axis, extent in enumerate(padded.shape) if axis != channel):
        return None
    axis = 1 if transposed else _OUT_AXIS[name]
    spread = [1] * weight.ndim
    spread[axis] = -1
    with np.errstate(all="ignore"):
        scaled = (weight.astype(np.float64) * padded.reshape(spread)).astype(np.float32)
    if not np.isfinite(scaled).all():  # of finite sums, times infinity, this would make NaN
        return None
    return call_of(name, [layer.args[0], constant(scaled)], layer.attrs)
