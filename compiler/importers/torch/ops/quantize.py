"""Quantization as torch writes it: fake_quantize of training, quantize and dequantize of PT2E (`quantized_decomposed`).

Where scales and zero points are known the result is `quantize` and `dequantize`, the form that the kernels on 8 bits are made from; a
constant is quantized here, by torch's formula: round(x · (1 / scale)) + zero_point, clamped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from .... import ir
from ....passes.fold_constants import evaluate
from .._context import Context, Expr
from .._dtypes import tvm_dtype
from .._registry import NotConvertible, converts

OP = relax.op
Array = npt.NDArray[Any]
_LIB = "quantized_decomposed"


def _holder(low: int, high: int) -> str:
    """The type of 8 bits that holds these numbers; "" if none does."""
    return "uint8" if low >= 0 and high <= 255 else "int8" if low >= -128 and high <= 127 else ""


def _constant_value(c: Context, value: Any, depth: int = 32) -> Array | None:
    """A number or a tensor whose value is known: a constant, or computed of constants (weights into which a normalization is folded)."""
    if isinstance(value, (int, float)):
        return np.asarray(value)
    array, call = c.constant_value(value), c.binding(value)
    if (
        array is not None
        or depth == 0
        or not isinstance(call, relax.Call)
        or not isinstance(value.ty, relax.TensorType)
    ):
        return array
    args = []
    for arg in call.args:
        if isinstance(arg, tvm.ir.Var) and isinstance(arg.ty, relax.TensorType):
            known = _constant_value(c, arg, depth - 1)
            if known is None:
                return None
            arg = relax.const(known, str(known.dtype))
        args.append(arg)
    found: Array | None = evaluate(tvm.ir.Call(call.op, args, call.attrs, list(call.ty_args)), value)
    return found


def _broadcast_parameter(c: Context, x: Expr, value: Any, axis: int | None) -> Expr:
    """A scale or zero point as float32 that broadcasts against x."""
    p = c.tensor(value, "float32")
    if axis is None:
        return c.reshape(p, [])
    shape: list[Any] = [1] * c.rank(x)
    shape[axis] = c.shape(x)[axis]
    return c.reshape(p, shape)


def _parameters(scale: Array, zero: Array, axis: int | None, extent: Any, holder: str) -> tuple[Array, Array] | None:
    """As quantize and dequantize take them: scalars, or one for each index of the axis."""
    shape = () if axis is None else (extent,)
    if scale.size != zero.size or (axis is not None and extent != scale.size) or not np.isfinite(scale).all():
        return None
    whole = np.rint(zero.astype(np.float64))
    info = np.iinfo(holder)
    if (whole != zero).any() or whole.min() < info.min or whole.max() > info.max or (axis is None and scale.size != 1):
        return None
    return scale.astype(np.float32).reshape(shape), whole.astype(holder).reshape(shape)


def _quantized(c: Context, x: Expr, scale: Any, zero: Any, axis: int | None, low: int, high: int) -> tuple[Expr, str]:
    """Numbers of 8 bits and their type, where there is one that holds them and all is known; else the same numbers as floats and ""."""
    holder, extent = _holder(low, high), None if axis is None else c.shape(x)[axis]
    s, z = _constant_value(c, scale), _constant_value(c, zero)
    known = _parameters(s, z, axis, extent, holder) if s is not None and z is not None and holder else None
    array = _constant_value(c, x) if known is not None else None
    if known is not None and array is not None and array.dtype == np.float32 and np.isfinite(array).all():
        dims = [1] * array.ndim
        if axis is not None:
            dims[axis] = known[0].size
        inverse = (np.float32(1) / known[0]).reshape(dims)
        q = np.rint(array * inverse) + known[1].astype(np.float32).reshape(dims)
        return c.const(np.clip(q, low, high).astype(holder), holder), holder
    if known is not None and axis is None and c.dtype(x) == "float32":
        parts = [c.const(p, str(p.dtype)) for p in known]
        q = c.emit(OP.quantize(x, *parts, axis=-1, out_dtype=holder))
        info = np.iinfo(holder)
        if high < info.max:
            q = c.emit(OP.minimum(q, c.const(np.asarray(high, holder), holder)))
        if low > info.min:
            q = c.emit(OP.maximum(q, c.const(np.asarray(low, holder), holder)))
        return q, holder
    x = c.cast(x, "float32")
    inverse = c.emit(OP.divide(c.const(1.0, "float32"), _broadcast_parameter(c, x, scale, axis)))
    rounded = c.emit(OP.round(c.emit(OP.multiply(x, inverse))))
    shifted = c.emit(OP.add(rounded, _broadcast_parameter(c, x, zero, axis)))
    return c.emit(OP.clip(shifted, float(low), float(high))), ""


def _dequantized(c: Context, q: Expr, scale: Any, zero: Any, axis: int | None, result: str = "float32") -> Expr:
    """(q - zero) · scale"""
    dtype, s, z = c.dtype(q), _constant_value(c, scale), 0 if zero is None else _constant_value(c, zero)
    if dtype in ("int8", "uint8", "int32") and s is not None and z is not None:
        zeros = np.broadcast_to(np.asarray(z), s.shape)
        known = _parameters(s, zeros, axis, None if axis is None else c.shape(q)[axis], dtype)
        if known is not None:
            parts = [c.const(p, str(p.dtype)) for p in known]
            at = -1 if axis is None else axis
            call = OP.dequantize(q, *parts, axis=at, out_dtype="float32")
            return c.cast(c.emit(ir.encoded_dequantize(call)), result)
    x = c.cast(q, "float32")
    centred = x if zero is None else c.emit(OP.subtract(x, _broadcast_parameter(c, x, zero, axis)))
    return c.cast(c.emit(OP.multiply(centred, _broadcast_parameter(c, x, scale, axis))), result)


def _faked(c: Context, x: Expr, scale: Any, zero: Any, axis: int | None, low: int, high: int) -> Expr:
    q, _ = _quantized(c, x, scale, zero, axis, low, high)
    return _dequantized(c, q, scale, zero, axis, c.dtype(x))


def _axis(c: Context, x: Expr, axis: int) -> int:
    rank = c.rank(x)
    if not -rank <= axis < rank:
        raise NotConvertible(f"axis {axis} of {rank} dimensions")
    return axis % rank


# ---- fake quantization


@converts("aten.fake_quantize_per_tensor_affine.default", "aten.fake_quantize_per_tensor_affine.tensor_qparams")
def fake_quantize(c: Context, x: Expr, scale: Any, zero_point: Any, quant_min: int, quant_max: int) -> Expr:
    return _faked(c, x, scale, zero_point, None, quant_min, quant_max)


@converts("aten.fake_quantize_per_channel_affine.default")
def fake_quantize_channels(
    c: Context, x: Expr, scale: Expr, zero_point: Expr, axis: int, quant_min: int, quant_max: int
) -> Expr:
    return _faked(c, x, scale, zero_point, _axis(c, x, axis), quant_min, quant_max)


def _with_mask(c: Context, y: Expr) -> list[Expr | None]:
    """The mask is for gradients; nothing else reads it."""
    users = c.node.users if c.node is not None else {}
    if any(user.args[1:] == (1,) and user.users for user in users):
        raise NotConvertible("the mask of a fake quantization, which is for gradients")
    return [y, c.const(np.ones([1], bool), "bool")]


@converts("aten.fake_quantize_per_tensor_affine_cachemask.default")
def fake_quantize_mask(c: Context, x: Expr, scale: Any, zero_point: Any, quant_min: int, quant_max: int) -> Any:
    return _with_mask(c, _faked(c, x, scale, zero_point, None, quant_min, quant_max))


@converts("aten.fake_quantize_per_channel_affine_cachemask.default")
def fake_quantize_channels_mask(
    c: Context, x: Expr, scale: Expr, zero_point: Expr, axis: int, quant_min: int, quant_max: int
) -> Any:
    return _with_mask(c, _faked(c, x, scale, zero_point, _axis(c, x, axis), quant_min, quant_max))


@converts("aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default")
def fake_quantize_switch(
    c: Context, x: Expr, scale: Expr, zero_point: Expr, fake_quant_enabled: Expr, quant_min: int, quant_max: int
) -> Any:
    on = _constant_value(c, fake_quant_enabled)
    if on is None:
        raise NotConvertible("a fake quantization that is switched at run time")
    return _with_mask(c, _faked(c, x, scale, zero_point, None, quant_min, quant_max) if on.any() else x)


def _rounded_zero(c: Context, zero: Expr, low: int, high: int, axis: int | None) -> Any:
    """A zero point that was learned: of a tensor its value and a half, cut off; of channels rounded. Both within the range."""
    z = _constant_value(c, zero)
    if z is None:
        raise NotConvertible("a learned zero point that changes at run time")
    z = z.astype(np.float32)
    if axis is None:
        return float(np.trunc(np.clip(z.reshape(()) + np.float32(0.5), low, high)))
    return c.const(np.clip(np.rint(z), low, high), "float32")


@converts("aten._fake_quantize_learnable_per_tensor_affine.default")
def learned(
    c: Context, x: Expr, scale: Expr, zero_point: Expr, quant_min: int, quant_max: int, grad_factor: float = 1.0
) -> Expr:
    return _faked(c, x, scale, _rounded_zero(c, zero_point, quant_min, quant_max, None), None, quant_min, quant_max)


@converts("aten._fake_quantize_learnable_per_channel_affine.default")
def learned_channels(
    c: Context, x: Expr, scale: Expr, zero_point: Expr, axis: int, quant_min: int, quant_max: int, grad_factor: float = 1.0
) -> Expr:  # fmt: skip
    at = _axis(c, x, axis)
    return _faked(c, x, scale, _rounded_zero(c, zero_point, quant_min, quant_max, at), at, quant_min, quant_max)


@converts("aten._fused_moving_avg_obs_fq_helper_functional.default", "aten.fused_moving_avg_obs_fake_quant.default")
def observing(
    c: Context, x: Expr, observer_on: Any, fake_quant_on: Any, running_min: Any, running_max: Any, scale: Any, zero_point: Any,
    averaging_const: float, quant_min: int, quant_max: int, ch_axis: int, per_row_fake_quant: bool, symmetric_quant: bool,
) -> Any:  # fmt: skip
    raise NotConvertible(
        "a fake quantization whose observer is on: model.apply(torch.ao.quantization.disable_observer)"
    )


# ---- PT2E


def _as_dtype(c: Context, found: tuple[Expr, str], dtype: Any) -> Expr:
    """Quantized numbers as the type that the graph says."""
    wanted = tvm_dtype(dtype)
    if wanted not in ("int8", "uint8", "int16", "int32"):
        raise NotConvertible(f"quantization to {wanted}")
    return c.cast(found[0], wanted)


@converts(f"{_LIB}.quantize_per_tensor.default", f"{_LIB}.quantize_per_tensor.tensor")
def quantize(c: Context, input: Expr, scale: Any, zero_point: Any, quant_min: int, quant_max: int, dtype: Any) -> Expr:
    return _as_dtype(c, _quantized(c, input, scale, zero_point, None, quant_min, quant_max), dtype)


@converts(f"{_LIB}.dequantize_per_tensor.default", f"{_LIB}.dequantize_per_tensor.tensor")
def dequantize(
    c: Context, input: Expr, scale: Any, zero_point: Any, quant_min: int, quant_max: int, dtype: Any, out_dtype: Any = None
) -> Expr:  # fmt: skip
    return _dequantized(c, input, scale, zero_point, None, c.out_dtype())


@converts(f"{_LIB}.quantize_per_channel.default")
def quantize_channels(
    c: Context, input: Expr, scales: Expr, zero_points: Expr, axis: int, quant_min: int, quant_max: int, dtype: Any
) -> Expr:
    at = _axis(c, input, axis)
    return _as_dtype(c, _quantized(c, input, scales, zero_points, at, quant_min, quant_max), dtype)


@converts(f"{_LIB}.dequantize_per_channel.default")
def dequantize_channels(
    c: Context, input: Expr, scales: Expr, zero_points: Any, axis: int, quant_min: int, quant_max: int, dtype: Any,
    out_dtype: Any = None,
) -> Expr:  # fmt: skip
    return _dequantized(c, input, scales, zero_points, _axis(c, input, axis), c.out_dtype())


@converts(f"{_LIB}.fake_quant_per_channel.default")
def fake_channels(
    c: Context, input: Expr, scales: Expr, zero_points: Expr, axis: int, quant_min: int, quant_max: int
) -> Expr:
    return _faked(c, input, scales, zero_points, _axis(c, input, axis), quant_min, quant_max)


@converts(f"{_LIB}.convert_element_type.no_fuse")
def convert_element_type(c: Context, input: Expr, dtype: Any) -> Expr:
    return c.cast(input, tvm_dtype(dtype))


@converts("aten._int_mm.default")
def int_mm(c: Context, x: Expr, mat2: Expr) -> Expr:
    """Of 8-bit integers, summed in 32."""
    wide = [c.cast(part, "int32") for part in (x, mat2)]
    return c.emit(OP.matmul(*wide, "int32"))


# ---- scales that a run computes


def _lowest_and_highest(c: Context, x: Expr) -> tuple[Expr, Expr]:
    """Of the tensor and 0, as float32 scalars."""
    zero, x = c.const(0.0, "float32"), c.cast(x, "float32")
    return c.emit(OP.minimum(c.emit(OP.min(x)), zero)), c.emit(OP.maximum(c.emit(OP.max(x)), zero))


def _scale_and_zero(c: Context, scale: Expr, zero: Expr) -> list[Expr]:
    return [c.reshape(c.cast(part, c.out_dtype(i)), c.out_shape(i)) for i, part in enumerate((scale, zero))]


@converts(f"{_LIB}.choose_qparams.tensor")
def choose_qparams(c: Context, input: Expr, quant_min: int, quant_max: int, eps: float, dtype: Any) -> Any:
    low, high = _lowest_and_highest(c, input)
    span = c.emit(OP.divide(c.emit(OP.subtract(high, low)), c.const(float(quant_max - quant_min), "float32")))
    scale = c.emit(OP.maximum(span, c.const(float(eps), "float32")))
    steps = c.emit(OP.round(c.emit(OP.divide(low, scale))))
    zero = c.emit(OP.subtract(c.const(float(quant_min), "float32"), steps))
    return _scale_and_zero(c, scale, c.emit(OP.clip(zero, float(quant_min), float(quant_max))))


@converts(f"{_LIB}.choose_qparams_symmetric.tensor")
def choose_qparams_symmetric(c: Context, input: Expr, quant_min: int, quant_max: int, eps: float, dtype: Any) -> Any:
    low, high = _lowest_and_highest(c, input)
    largest = c.emit(OP.maximum(c.emit(OP.negative(low)), high))
    scale = c.emit(OP.divide(largest, c.const(float(quant_max - quant_min) / 2, "float32")))
    scale = c.emit(OP.maximum(scale, c.const(float(eps), "float32")))
    return _scale_and_zero(c, scale, c.const(0 if quant_min < 0 else 128, "float32"))
